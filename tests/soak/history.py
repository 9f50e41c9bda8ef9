"""What went before a hit that could not be: all that happened to its prompt, and to the nodes meanwhile."""

from collections.abc import Iterable, Sequence

from tests.soak.nemesis import Window
from tests.soak.notes import Note

BEFORE = 15.0
"""Seconds before the removal from which on everything is told: longer than a node is believed to live."""

SOME = 3
"""Prompts that are told of."""


def histories(found: Sequence[Note], all_notes: Iterable[Note], windows: Sequence[Window]) -> list[str]:
    """Lines for the first of these prompts: calls and times of faults, in their order, seconds from the first hit."""
    first: dict[tuple[str, int], Note] = {}
    for note in found:
        first.setdefault((note.namespace, note.prompt), note)
    notes = [note for note in all_notes if (note.namespace, note.prompt) in first]
    lines = []
    for (namespace, prompt), hit in list(first.items())[:SOME]:
        own = [note for note in notes if (note.namespace, note.prompt) == (namespace, prompt)]
        removed = max((note.at for note in own if note.op == "delete" and note.at < hit.end), default=hit.at)
        last = max(note.end for note in found if (note.namespace, note.prompt) == (namespace, prompt))
        told = [(note.at, call(note, note in found)) for note in own if removed - BEFORE <= note.at <= last]
        told += [(w.begun, fault(w)) for w in windows if w.over >= removed - BEFORE and w.begun <= last]
        lines.append(f"{namespace} {prompt}:")
        lines += [f"  {at - hit.at:+8.3f} {text}" for at, text in sorted(told)]
    return lines


def call(note: Note, found: bool) -> str:
    """One call in a few words."""
    where = f" at node-{note.node}" if note.node >= 0 else ""
    came = f" from {','.join(note.tiers)}" if note.tiers else ""
    ended = note.error or ",".join(note.statuses) or f"{note.blocks} blocks"
    return f"{'! ' if found else ''}{note.op}{where}, {note.took:.3f} s: {ended}{came} {note.text[:90]}".rstrip()


def fault(window: Window) -> str:
    """One time of faults in a few words."""
    names = ", ".join(f"{name} ({'/'.join(window.where.get(name, ())) or 'all'})" for name in window.names)
    healed = "never" if window.healed is None else f"{window.healed:.2f} s later"
    return f"# {names}, for {window.ended - window.begun:.2f} s, healed {healed}"
