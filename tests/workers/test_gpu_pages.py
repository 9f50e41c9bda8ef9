"""A prefill worker with pages of its own and decode workers that read them, each a process, on one store."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cachestore.metrics import total
from decode_worker.client import DecodeClient
from tests.e2e.cluster import BLOCK, Children, Trio, eventually

pytestmark = pytest.mark.slow

LONG = 900
SETTINGS = {"prefill": 'gpu_pages = "8MiB"\n', "decode": 'gpu_pages = true\nrest = "50ms"\nrefresh = "50ms"\n'}


class Paged(Trio):
    """With pages on the device that all of them compute on."""

    def start_worker(self, role: str, name: str, settings: str = "", batch: str = "") -> Any:
        return super().start_worker(role, name, settings + SETTINGS[role], batch)

    def figure(self, name: str, **labels: str) -> int:
        return total(self.store.stats(), name, **labels)


@pytest.fixture(scope="module")
def paged(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    cluster = Paged(Children(tmp_path_factory.mktemp("paged")), tiny_model)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def fresh() -> Callable[[int], list[int]]:
    """A prompt that nobody has seen."""
    seeds = count(1)

    def make(length: int) -> list[int]:
        seed = next(seeds)
        return [3 + (number * number * 7 + number * seed * 13 + seed) % 90 for number in range(length)]

    return make


def test_a_handoff_through_pages(paged: Paged, fresh: Callable[[int], list[int]]) -> None:
    """All blocks of prompts come from pages, for a handoff and warm; what is generated is no prefill worker's."""
    tokens = fresh(70)
    made, usage = paged.ask(tokens)
    assert made == paged.expected(tokens) and usage.prefilled_by == "p0" and usage.loaded_tokens == 64
    assert paged.figure("read_hits", tier="gpu", purpose="handoff") == 4 == paged.figure("read_blocks")
    other = paged.children.told(paged.start_worker("decode", "d1", f"local_prefill_tokens = {BLOCK}\n"))
    with DecodeClient(other.address) as client, client.generate(tokens, max_tokens=12, timeout=30) as answer:
        assert list(answer) == made
        assert answer.usage is not None
        assert answer.usage.prefilled_by == "local" and answer.usage.reuse.reused == {"gpu": 64}
    other.process.terminate()
    assert other.process.wait(20) == 0
    assert paged.figure("read_hits", tier="gpu", purpose="reuse") == 4
    paged.at_rest()


def test_a_prefill_worker_with_pages_that_is_killed(paged: Paged, fresh: Callable[[int], list[int]]) -> None:
    """What was read stays read, the store has what was published, and the rest is computed; nothing is left of it."""
    before = fresh(70)
    paged.handed(before)
    for where in ("between", "within"):
        tokens = fresh(LONG)
        if where == "within":
            read = paged.figure("read_hits", tier="gpu")
            answer = paged.decode.generate(tokens, max_tokens=6, timeout=60)
            eventually(lambda: paged.figure("puts_open") == 1)
            paged.prefill_child.kill()
            made = list(answer)
            assert made == paged.expected(tokens, 6) and answer.usage is not None
            assert answer.usage.reuse.computed + sum(answer.usage.reuse.reused.values()) == LONG
            assert paged.figure("read_hits", tier="gpu") >= read
        else:
            made, usage = paged.ask(tokens, 6)
            assert made == paged.expected(tokens, 6) and usage.prefilled_by == "p0"
            assert usage.loaded_tokens == LONG // BLOCK * BLOCK
    paged.at_rest()
    eventually(lambda: not paged.figure("tier_blocks", tier="gpu"))
    assert paged.figure("tier_removed", tier="gpu", why="lost") > 0
    # what its pages held is in the store
    made, usage = paged.ask(before)
    assert made == paged.expected(before) and usage.reuse.reused == {"cpu": 64} and usage.prefilled_by == "local"
    # and another one begins anew
    paged.known("prefill", 0)
    child = paged.children.told(paged.start_worker("prefill", "p1"))
    paged.known("prefill", 1)
    tokens, hits = fresh(70), paged.figure("read_hits", tier="gpu")

    def handed() -> bool:
        return paged.ask(fresh(70))[1].prefilled_by == "p1"

    eventually(handed)
    made, usage = paged.ask(tokens)
    assert made == paged.expected(tokens) and usage.loaded_tokens == 64
    assert paged.figure("read_hits", tier="gpu") >= hits + 4
    child.process.terminate()
    assert child.process.wait(20) == 0
    eventually(lambda: not paged.figure("tier_blocks", tier="gpu"))
    paged.at_rest()
