"""Another process that reads pages: attaches what it inherits, and says what it finds. Run with a socket's number.

The first line of JSON has the slabs, their descriptors as they are here; each further one is answered by one.

    {"register": …}   finds a page of the catalogue: its checksum, and whether the header is that of the key
    {"check": key}    whether the page found before still is that block's
    {"write": key}    writes into the page found before, as a reader should not
"""

import json
import socket
import sys
from typing import Any

from cachestore.seal import CorruptBlock, checksum
from cachestore.tiers.gpu_pages import Page
from cachestore.tiers.gpu_sharing import Registered, SlabHandle, attach


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        pages: dict[str, Page] = {}
        with connection.makefile("rw") as lines:
            slabs = {one["number"]: attach(handle(one)) for one in json.loads(lines.readline())}
            for line in lines:
                print(json.dumps(answer(json.loads(line), slabs, pages)), file=lines, flush=True)


def handle(given: dict[str, Any]) -> SlabHandle:
    hexadecimal = {name: bytes.fromhex(given[name]) for name in ("namespace", "token")}
    return SlabHandle(**{**given, **hexadecimal})


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
