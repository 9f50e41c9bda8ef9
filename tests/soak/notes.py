"""What actors did, a line of JSON each, in files outside the system under test.

A line is one `write` of a file opened for appending, so it is there, whole, though its writer is killed with the next
instruction.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Note:
    """One call. Times are monotonic seconds, the same clock for every process of the machine.

    `op` is read, lookup, put, delete, or before a put is begun intent, and before a delete undo. `node` is the number
    of the node that was asked, -1 if none was. `statuses` are a put's answers. Of the `blocks` that were read `others`
    came from another node's memory, all of them from `tiers`; `wrong` are not what was put, and `foreign` are what
    another namespace put.
    """

    at: float
    op: str
    prompt: int
    namespace: str
    timeout: float = 0.0
    took: float = 0.0
    blocks: int = 0
    others: int = 0
    wrong: int = 0
    foreign: int = 0
    error: str = ""
    text: str = ""
    statuses: tuple[str, ...] = ()
    node: int = -1
    tiers: tuple[str, ...] = ()
    held_up: float = 0.0
    """How long this process itself was not run meanwhile, as far as it noticed."""

    @property
    def end(self) -> float:
        """When the call returned."""
        return self.at + self.took


class Notebook:
    """Appends to one file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, note: Note) -> None:
        """Writes one line."""
        os.write(self._file, json.dumps(asdict(note)).encode() + b"\n")


def notes(folder: Path) -> Iterator[Note]:
    """All notes of a run, in the order of their beginning."""
    found = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            fields = json.loads(line)
            found.append(Note(**{**fields, "statuses": tuple(fields["statuses"]), "tiers": tuple(fields["tiers"])}))
    yield from sorted(found, key=lambda note: note.at)
