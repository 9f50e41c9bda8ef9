import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachestore.block import Half, Part
from cachestore.plane_table import TABLE
from cachestore.seal import ALIGN, Header, aligned
from cachestore.service.ranges import ranges
from cachestore.testing import small_spec


@given(st.permutations(range(8)), st.lists(st.integers(1, 300), min_size=8, max_size=8), st.booleans(), st.booleans())
def test_ranges_cover_a_part_and_little_else(order: list[int], sizes: list[int], one_slot: bool, keys: bool) -> None:
    table = np.zeros(8, dtype=TABLE)
    for index, plane in enumerate(small_spec().planes()):
        table[index]["slot"], table[index]["half"], table[index]["group"] = plane[:3]
    end = 0
    for index in order:
        table[index]["offset"], table[index]["stored_bytes"] = end, sizes[index]
        end = aligned(end + sizes[index])
    header = Header(bytes(32), bytes(32), bytes(32), 4, table, bytes(16), 0, payload_bytes=end)
    part = Part(range(1, 2) if one_slot else None, frozenset({Half.K}) if keys else None)
    found = ranges(header, part)
    covered = np.zeros(end, dtype=bool)
    for start, stop in found:
        assert not covered[start:stop].any()
        covered[start:stop] = True
    chosen = [table[index] for index in header.select(part)]
    for row in chosen:
        assert covered[int(row["offset"]) :][: int(row["stored_bytes"])].all()
    assert covered.sum() < sum(int(row["stored_bytes"]) + ALIGN for row in chosen)
    assert found == sorted(found)
    if not one_slot and not keys:
        assert len(found) == 1
