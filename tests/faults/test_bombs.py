"""Messages that grow when they are unpacked."""

import grpc
import pytest

from cachestore.service.stream.frames import WRITE
from tests.faults.calls import putting, reading
from tests.faults.values import prompt
from tests.faults.wire import SMALL, Wire

LOOKUP = "/cachestore.v1.CacheStore/Lookup"


@pytest.mark.parametrize("path", [LOOKUP, WRITE])
def test_b6_a_compressed_message_counts_as_what_it_becomes(wired: Wire, path: str) -> None:
    with grpc.insecure_channel(wired.server.address, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            list(channel.stream_stream(path)(iter([bytes(32 << 20)]), timeout=20))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    keys, blocks = prompt(SMALL, 2)
    assert putting(wired.store, keys, blocks) == ["stored"] * 2 and reading(wired.store, keys) == 2
