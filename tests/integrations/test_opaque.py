"""Pages of bytes in the store."""

import numpy as np
import pytest

from cachestore.block import Buffer, OpaqueSpec
from cachestore.integrations.opaque import OpaquePages, layout_text
from cachestore.store.tiered import TieredStore

BYTES = 4096


def pages(tiered: TieredStore, **facts: object) -> OpaquePages:
    layout = layout_text({"page_bytes": BYTES, **facts})
    spec = OpaqueSpec("engine", "1", "model", "one", "bfloat16", layout, 0, 1, "sha256")
    return OpaquePages(tiered.namespace("default"), spec, BYTES)


def page(number: int) -> Buffer:
    return np.full(BYTES, number, dtype=np.uint8)


def test_pages_come_back_up_to_the_first_gap(tiered: TieredStore) -> None:
    keys = [f"key {number}".encode() for number in range(5)]
    held = pages(tiered)
    assert held.put(keys[:3], [page(number) for number in range(3)]) == [True] * 3
    assert held.put(keys[2:3] + keys[4:], [page(9), page(4)]) == [True] * 2
    assert held.leading(keys) == 3 and held.leading([]) == 0
    into = [page(255) for _ in keys]
    assert held.read(keys, into) == 3
    assert [int(each[0]) for each in into[:3]] == [0, 1, 2]
    assert held.read(keys[4:], into[:1]) == 1
    assert (into[0] == 4).all()


@pytest.mark.parametrize("facts", [{"tp": 2}, {"layout": "x"}])
def test_pages_of_another_layout_are_others(tiered: TieredStore, facts: dict[str, object]) -> None:
    pages(tiered).put([b"key"], [page(1)])
    assert pages(tiered, **facts).leading([b"key"]) == 0
    assert pages(tiered).leading([b"key"]) == 1
