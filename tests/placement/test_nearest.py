"""From whom a block is read."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cachestore.placement.nearest import Here, best, runs


@dataclass(frozen=True)
class Life:
    node: str
    incarnation: bytes
    queue: int = 0


OWN, BESIDE = Life("here", b"own", 9), Life("here", b"beside", 9)
FAR = [Life(f"far{number}", b"far%d" % number, number) for number in range(4)]
HERE = Here("here", b"own")


def test_near_beats_far_however_busy() -> None:
    assert best([*FAR, BESIDE, OWN], HERE, Random(0)) is OWN
    assert best([*FAR, BESIDE], HERE, Random(0)) is BESIDE
    assert best([], HERE, Random(0)) is None
    # a reader that is no node has nobody near
    assert best([Life("", b"", 5), FAR[0]], Here(), Random(1)) is FAR[0]


def test_the_busiest_of_several_is_never_chosen_and_not_everybody_goes_to_one() -> None:
    random = Random(0)
    chosen = Counter(best(FAR, HERE, random).queue for _ in range(1200))  # type: ignore[union-attr]
    # two of four drawn by lot: the least busy one is among them in half of all cases
    assert chosen[3] == 0 and 500 < chosen[0] < 700 and chosen[2] > 100


def test_a_prompt_is_read_in_few_runs() -> None:
    one, other, last = FAR[0], FAR[1], FAR[2]
    found = [[one, other], [one, other], [other, one], [other], [other, last], [last], [], [one]]
    assert runs(found, HERE, Random(0)) == [(other, 5), (last, 1)]
    assert runs([], HERE, Random(0)) == [] == runs([[], [one]], HERE, Random(0))


def test_a_run_ends_where_a_nearer_one_begins() -> None:
    far = FAR[0]
    found = [[far], [far, BESIDE], [far, BESIDE, OWN], [far, OWN], [far]]
    assert runs(found, HERE, Random(0)) == [(far, 1), (BESIDE, 1), (OWN, 2), (far, 1)]


@given(st.lists(st.lists(st.sampled_from([OWN, BESIDE, *FAR]), unique=True, max_size=4), max_size=20), st.integers())
def test_runs_cover_the_leading_blocks_by_who_has_them(found: list[list[Life]], seed: int) -> None:
    chosen = runs(found, HERE, Random(seed))
    each = [holder for holder, count in chosen for _ in range(count)]
    assert len(each) == next((index for index, holders in enumerate(found) if not holders), len(found))
    for holder, holders in zip(each, found, strict=False):
        assert holder in holders and holder.node in ("here", *(life.node for life in holders if life.node != "here"))
        near = [life for life in holders if life.node == "here"]
        assert not near or holder in near
        assert OWN not in holders or holder is OWN
    assert all(count > 0 for _, count in chosen)


@given(st.lists(st.lists(st.sampled_from(FAR), unique=True, min_size=1, max_size=3), max_size=12))
def test_no_other_way_needs_fewer_runs(found: list[list[Life]]) -> None:
    fewest = [0] * (len(found) + 1)
    for end in range(1, len(found) + 1):
        fewest[end] = min(
            1 + fewest[start]
            for start in range(end)
            if any(all(life in holders for holders in found[start:end]) for life in FAR)
        )
    assert len(runs(found, HERE, Random(0))) == fewest[-1]
