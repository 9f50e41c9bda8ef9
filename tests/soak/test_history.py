"""What is told of a hit that could not be, and which one is documented."""

from dataclasses import replace
from typing import Any

import pytest

from tests.soak.checks import check
from tests.soak.history import histories
from tests.soak.nemesis import Window
from tests.soak.notes import Note


def test_a_hit_behind_a_delete_is_told_with_what_went_before() -> None:
    notes = [
        Note(1.0, "intent", 4, "south"),
        Note(1.1, "put", 4, "south", 1.0, 0.1, statuses=("stored",), node=1),
        Note(30.0, "read", 4, "south", 1.0, 0.1, blocks=4, node=1, tiers=("cpu",)),
        Note(31.0, "undo", 4, "south"),
        Note(31.0, "delete", 4, "south", 1.0, 0.1, blocks=4, node=1),
        Note(32.0, "read", 4, "south", 1.0, 0.1, blocks=4, node=2, tiers=("peer", "redis")),
        Note(33.0, "read", 5, "south", 1.0, 0.1, node=2),
    ]
    near = Window(("store killed",), False, 28.0, 30.5, 30.6, {}, {"store killed": ("node-2",)}, 0.1)
    far = Window(("redis killed",), False, 2.0, 3.0, 3.1, {}, {}, 0.1)
    found = check(notes, [near, far])
    assert found.invisible == [notes[5]]
    assert histories(found.invisible, notes, [near, far]) == [
        "south 4:",
        "    -4.000 # store killed (node-2), for 2.50 s, healed 0.10 s later",
        "    -2.000 read at node-1, 0.100 s: 4 blocks from cpu",
        "    -1.000 delete at node-1, 0.100 s: 4 blocks",
        "    -1.000 undo, 0.000 s: 0 blocks",
        "    +0.000 ! read at node-2, 0.100 s: 4 blocks from peer,redis",
    ]


@pytest.mark.parametrize(
    ("fault", "begun", "read", "documented"),
    [
        ("store ended", 30.5, {}, True),
        ("store ended", 31.2, {}, False),
        ("store ended", 30.5, {"tiers": ("redis",)}, False),
        ("store ended", 30.5, {"node": 0}, False),
        ("store killed", 30.5, {}, False),
        ("store killed", 20.5, {}, True),
        ("redis killed", 20.5, {}, False),
    ],
)
def test_only_a_disk_that_came_back_may_have_what_was_deleted_meanwhile(
    fault: str, begun: float, read: dict[str, Any], documented: bool
) -> None:
    put = [Note(1.0, "intent", 4, "south"), Note(1.1, "put", 4, "south", 1.0, 0.1, statuses=("stored",), node=1)]
    delete = Note(31.0, "delete", 4, "south", 1.0, 0.1, blocks=4, node=1)
    hit = replace(Note(33.0, "read", 4, "south", 1.0, 0.1, blocks=4, node=2, tiers=("disk",)), **read)
    later = Note(34.0, "read", 4, "south", 1.0, 0.1, blocks=4, node=0, tiers=("peer",))
    window = Window((fault,), False, begun, 32.5, 32.6, {}, {fault: ("node-2",)}, 0.1)
    found = check([*put, delete, hit, later], [window])
    assert (found.returned, found.invisible) == (([hit, later], []) if documented else ([], [hit, later]))
