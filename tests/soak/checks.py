"""What must hold over all notes of a run."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.soak.nemesis import Window
from tests.soak.notes import Note
from tests.soak.plan import LIFE, PROMISE

IN_TROUBLE = {"Unavailable", "DeadlineExceeded", "Aborted", "Overloaded", "DurabilityUnmet", "LeaseExpired"}
IN_DAMAGE = IN_TROUBLE | {"InvalidArgument", "Mismatch", "TooLarge", "Unauthenticated", "PermissionDenied"}
"""What a store may answer to a request that broke on its way."""

HELD_UP = 0.05
AFTER = 1.0
"""Seconds behind a window in which calls that began in it may still end."""


@dataclass
class Findings:
    """Counts, and for those that must be zero what was found."""

    operations: int = 0
    verified_reads: int = 0
    verified_blocks: int = 0
    from_other_nodes: int = 0
    wrong: list[Note] = field(default_factory=list)
    late: list[Note] = field(default_factory=list)
    late_with_machine: int = 0
    most_late: float = 0.0
    unexpected: list[Note] = field(default_factory=list)
    invisible: list[Note] = field(default_factory=list)
    """Hits before anybody meant to put, or after an acknowledged delete."""
    returned: list[Note] = field(default_factory=list)
    """Those after a delete of which a node that came back with its disk had not been told, as it is documented."""
    foreign: int = 0
    quiet: int = 0
    failed_in_quiet: int = 0


def check(all_notes: Sequence[Note], windows: Sequence[Window]) -> Findings:
    """Checks 1, 2, 5, 6, 8 and 9."""
    found = Findings()
    for note in all_notes:
        if note.op in ("intent", "undo"):
            continue
        found.operations += 1
        found.verified_reads += note.op == "read" and note.blocks > 0
        found.verified_blocks += note.blocks if note.op == "read" else 0
        found.from_other_nodes += note.others
        found.foreign += note.foreign
        if note.wrong:
            found.wrong.append(note)
        _late(note, found)
        trouble = [window for window in windows if note.at <= window.over + AFTER and window.begun <= note.end]
        if note.error:
            allowed = IN_DAMAGE if any(window.damages for window in trouble) else IN_TROUBLE
            if note.error not in allowed:
                found.unexpected.append(note)
        if not trouble:
            found.quiet += 1
            found.failed_in_quiet += bool(note.error)
    _visible(all_notes, windows, found)
    return found


def _late(note: Note, found: Findings) -> None:
    late = note.took - note.timeout
    if late <= PROMISE:
        found.most_late = max(found.most_late, late)
    elif note.held_up > HELD_UP:
        found.late_with_machine += 1
    else:
        found.late.append(note)


def _visible(all_notes: Sequence[Note], windows: Sequence[Window], found: Findings) -> None:
    """No prompt is found before its first intent, nor between an acknowledged delete and the next intent."""
    histories: defaultdict[tuple[str, int], list[Note]] = defaultdict(list)
    for note in all_notes:
        if note.op in ("intent", "put", "undo", "delete"):
            histories[note.namespace, note.prompt].append(note)
    removed: defaultdict[Note, list[Note]] = defaultdict(list)
    for note in all_notes:
        if note.op not in ("read", "lookup") or not note.blocks:
            continue
        history = histories[note.namespace, note.prompt]
        before = history[: bisect_right(history, note.end, key=lambda one: one.at)]
        if not any(one.op == "intent" for one in before):
            found.invisible.append(note)
        elif (last := before[-1]).op == "delete" and not last.error and note.at > _settled(before):
            removed[last].append(note)
    for delete, hits in removed.items():
        (found.returned if _returned(delete, hits, windows) else found.invisible).extend(hits)
    found.invisible.sort(key=lambda note: note.at)


def _returned(delete: Note, hits: Sequence[Note], windows: Sequence[Window]) -> bool:
    """Whether a node that could not be told of the delete, since it had left or counted as dead, brought it all back.

    Its disk alone outlives it, and others find the blocks once they have been read there.
    """
    first = next((note for note in hits if note.op == "read"), None)
    if first is None or "disk" not in first.tiers:
        return False
    for window in windows:
        for name, nodes in window.where.items():
            away = {"store ended": 0.0, "store killed": LIFE, "store killed, all but one": LIFE}.get(name)
            if away is None or f"node-{first.node}" not in nodes:
                continue
            if window.begun + away <= delete.end and delete.at <= window.ended <= first.end:
                return True
    return False


def _settled(before: Sequence[Note]) -> float:
    """When the last delete was done, and whatever put was given up before it can no longer arrive."""
    done = before[-1].end
    for intent, after in pairwise(before):
        if intent.op == "intent" and (after.op != "put" or after.error):
            done = max(done, intent.at + 2.0 + AFTER)
    return done
