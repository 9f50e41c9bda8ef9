"""What processes hold, over time: memory, descriptors, threads."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import numpy as np

from tests.soak.system import System

EVERY = 1.0
LEAST = 30
"""Samples of one process below which a slope says nothing."""


@dataclass
class Samples:
    """Of one process: seconds, and kilobytes, descriptors and threads at these times."""

    times: list[float] = field(default_factory=list)
    held: list[tuple[int, int, int]] = field(default_factory=list)

    def slopes(self) -> tuple[float, float, float]:
        """Percent an hour, without the first third, in which a process warms up."""
        times = np.array(self.times[len(self.times) // 3 :]) - self.times[0]
        held = np.array(self.held[len(self.held) // 3 :], dtype=np.float64)
        return tuple(float(np.polyfit(times, row, 1)[0] / row.mean() * 360_000) for row in held.T)  # type: ignore[return-value]


class Leaks(Thread):
    """Samples the nodes and their clients until it is stopped."""

    def __init__(self, system: System) -> None:
        super().__init__(daemon=True)
        self._system = system
        self._over = Event()
        self.samples: dict[tuple[str, int], Samples] = {}

    def run(self) -> None:
        """A sample of each process a second."""
        while not self._over.wait(EVERY):
            processes = {node.name: node.store for node in self._system.nodes} | self._system.actors
            for name, process in processes.items():
                held = _held(process.popen.pid)
                if held is not None:
                    one = self.samples.setdefault((name, process.popen.pid), Samples())
                    one.times.append(time.monotonic())
                    one.held.append(held)

    def end(self) -> dict[str, tuple[float, float, float]]:
        """The slopes of the longest living process of each name."""
        self._over.set()
        self.join(5)
        longest: dict[str, Samples] = {}
        for (name, _), one in self.samples.items():
            if len(one.times) > max(LEAST - 1, len(longest[name].times) if name in longest else 0):
                longest[name] = one
        return {name: one.slopes() for name, one in sorted(longest.items())}


def _held(pid: int) -> tuple[int, int, int] | None:
    place = Path(f"/proc/{pid}")
    try:
        words = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return int(words["VmRSS"].split()[0]), len(list((place / "fd").iterdir())), int(words["Threads"])
    except (OSError, KeyError):
        return None
