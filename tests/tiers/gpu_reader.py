"""Another process that reads pages: attaches what its parent sends, and says what it finds. Run with a socket's number.

After the slabs come lines of JSON; each is answered by one.

    {"register": …}   finds a page of the catalogue: its checksum, and whether the header is that of the key
    {"check": key}    whether the page found before still is that block's
    {"write": key}    writes into the page found before, as a reader should not
"""

import json
import socket
import sys

from cachestore.seal import CorruptBlock, checksum
from cachestore.tiers.gpu_pages import Page
from cachestore.tiers.gpu_sharing import Registered, attach, receive_slabs


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        slabs = {handle.number: attach(handle) for handle in receive_slabs(connection)}
        pages: dict[str, Page] = {}
        with connection.makefile("rw") as lines:
            for line in lines:
                print(json.dumps(answer(json.loads(line), slabs, pages)), file=lines, flush=True)


def answer(asked: dict[str, object], slabs: dict[int, object], pages: dict[str, Page]) -> object:
    if "register" in asked:
        key, slab, offset, generation, header = asked["register"]
        entry = Registered(bytes.fromhex(key), slab, offset, generation, bytes.fromhex(header))
        try:
            page = pages[key] = slabs[slab].page(entry)
        except CorruptBlock as corrupt:
            return corrupt.reason
        # the copy is done when it is here, so that the check comes after it
        copy = page.tensor.cpu()
        page.check()
        return [checksum(copy.numpy()), str(page.tensor.device.type), page.header.key.hex()]
    if "write" in asked:
        pages[asked["write"]].tensor[:] = 0
        return "written"
    try:
        pages[asked["check"]].check()
    except CorruptBlock as corrupt:
        return corrupt.reason
    return "good"


if __name__ == "__main__":
    main()
