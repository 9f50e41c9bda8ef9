"""Who follows blocks that are being written is given a lease once they are there, and leaves none behind."""

from collections.abc import Callable, Generator
from typing import cast

import grpc
import pytest

from cachestore.deadline import Deadline
from cachestore.metrics import total
from cachestore.service import convert
from cachestore.service.client import RemoteStore
from cachestore.service.stream import frames
from cachestore.service.stream.reading import read
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks
from cachestore.testing.provisional import right
from cachestore.wire import store_pb2 as wire


def test_who_leaves_before_it_was_told_of_its_lease_leaves_none(
    tiered: TieredStore, remote: RemoteStore, eventually: Callable[[Callable[[], object]], None]
) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    store = tiered.namespace("default")
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        write_blocks(put, blocks)
        reading = remote.read(keys, wait=10.0, provisional=True)
        assert right(next(reading.planes()), blocks)
        put.commit()
    # all else that the store sends is on its way by then
    eventually(lambda: total(store.stats(), "leases_open") == 1)
    reading.close()
    eventually(lambda: total(store.stats(), "leases_open") == 0)
    assert total(store.stats(), "read_open") == 0


@pytest.mark.parametrize("gone", [True, False])
def test_no_lease_is_left_for_who_left_before_it_was_there(tiered: TieredStore, gone: bool) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    store = tiered.namespace("default")
    assert put_blocks(store, keys.fingerprint, blocks)
    request = wire.ReadRequest(chain=convert.chain_message(keys))
    answers = read(store, request, 1 << 20, Deadline.after(5), lambda _: None, lambda _: True, lambda: gone)
    assert (next(answers, None) is None) is gone
    cast("Generator[object, None, None]", answers).close()
    assert total(store.stats(), "leases_open") == (not gone)


def test_the_caller_may_name_the_lease_it_opens(channel: grpc.Channel, tiered: TieredStore) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    assert put_blocks(tiered.namespace("default"), keys.fingerprint, blocks)
    call = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, frames.read_response)

    def ask(**fields: bytes) -> wire.Granted:
        request = wire.ReadRequest(chain=convert.chain_message(keys), **fields)  # type: ignore[arg-type]
        granted: wire.Granted = next(call(request, timeout=20)).granted
        return granted

    assert ask(new_lease=b"n" * 16).lease == b"n" * 16
    for fields in ({"new_lease": b"n" * 16}, {"new_lease": b"short"}, {"new_lease": b"o" * 16, "lease": b"n" * 16}):
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            ask(**fields)
    assert total(tiered.namespace("default").stats(), "leases_open") == 1
