"""Pages in runs of memory: in and out by run, by plane and in one piece, the same bytes. Needs no SGLang."""

import numpy as np
import pytest

from cachestore.block import Buffer, OpaqueSpec
from cachestore.integrations import sglang_pages
from cachestore.integrations.sglang_pages import RunPages
from cachestore.store.tiered import TieredStore

SPEC = OpaqueSpec("sglang", "1", "model", "one", "bfloat16", "layout", 0, 1, "sha256")
KEYS = [f"key {number}".encode() for number in range(6)]


def pages(tiered: TieredStore, runs: tuple[int, ...]) -> RunPages:
    return RunPages(tiered.namespace("default"), SPEC, runs, 10.0, 1.0)


def random_runs(runs: tuple[int, ...], count: int) -> list[tuple[Buffer, ...]]:
    numbers = np.random.default_rng(3)
    return [tuple(numbers.integers(0, 256, nbytes, dtype=np.uint8) for nbytes in runs) for _ in range(count)]


def blank(runs: tuple[int, ...], count: int) -> list[tuple[Buffer, ...]]:
    return [tuple(np.zeros(nbytes, dtype=np.uint8) for nbytes in runs) for _ in range(count)]


@pytest.mark.parametrize("runs", [(4096,), (4096, 4096), (512, 256, 128)])
def test_pages_come_back_up_to_the_first_gap(runs: tuple[int, ...], tiered: TieredStore) -> None:
    held, given = pages(tiered, runs), random_runs(runs, 6)
    assert held.put(KEYS[:3], given[:3]) == [True] * 3
    # in one piece, the third again and one behind a gap
    whole = [(np.concatenate(page),) for page in given]
    assert held.put([KEYS[2], KEYS[4]], [whole[0], whole[4]]) == [True] * 2
    assert held.leading(KEYS) == 3 and held.leading([]) == 0
    into = blank(runs, 6)
    assert held.scatter(KEYS, into) == 3 and held.scatter([], []) == 0
    assert held.scatter([KEYS[4]], into[4:5]) == 1 and held.scatter([KEYS[3]], into[3:4]) == 0
    for number in (0, 1, 2, 4):
        assert all(map(np.array_equal, into[number], given[number]))
    flat = [np.zeros(held.page_bytes, dtype=np.uint8) for _ in KEYS]
    assert held.read(KEYS, flat) == 3
    assert all(np.array_equal(flat[number], whole[number][0]) for number in range(3))


def test_pages_of_other_runs_are_not_scattered(tiered: TieredStore) -> None:
    given = random_runs((4096, 2048), 1)
    pages(tiered, (4096, 2048)).put(KEYS[:1], given)
    into = blank((2048, 4096), 1)
    assert pages(tiered, (2048, 4096)).scatter(KEYS[:1], into) == 0
    assert not any(run.any() for run in into[0])


def test_long_prompts_are_asked_for_in_parts(tiered: TieredStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang_pages, "MOST_KEYS", 4)
    held = pages(tiered, (64,))
    held.put(KEYS, random_runs((64,), 6))
    assert held.leading(KEYS) == 6 and held.leading([*KEYS, b"nobody"]) == 6
    assert held.leading([b"nobody", *KEYS]) == 0
