"""Runs mutations in copies of the source, so that nobody else ever sees one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutations.mutation import SOURCE, Mutation

COPIED = ("cachestore", "kernels", "tests", "pyproject.toml", "README.md")
LONGEST = 180.0
"""Seconds after which a mutant that hangs has been noticed."""

LONGEST_CHECK = 900.0
"""Seconds that all tests named may take together."""

_FAILED = 1
"""pytest's exit status for tests that ran and failed; any other but 0 says that they did not run."""


class NotRun(Exception):
    """The tests say nothing about any mutation."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation, after how many seconds."""

    mutation: Mutation
    caught: bool
    seconds: float


@dataclass(frozen=True)
class Copy:
    """A copy of the source at `root`, for one mutation at a time. Nothing compiled is kept there."""

    root: Path

    def prepare(self) -> None:
        """Copies the source; NotRun if its tests would take other source."""
        for name in COPIED:
            place = SOURCE / name
            if place.is_dir():
                shutil.copytree(place, self.root / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            else:
                shutil.copy2(place, self.root)
        shown = [
            sys.executable,
            "-c",
            "import cachestore, cachestore_kernels as k; print(cachestore.__file__, k.__file__)",
        ]
        taken = subprocess.run(shown, cwd=self.root, env=self._environment, capture_output=True, text=True, check=True)
        if not all(Path(file).is_relative_to(self.root) for file in taken.stdout.split()):
            raise NotRun(f"the tests would not take the copy in {self.root}, but {taken.stdout}")

    def check(self, tests: Sequence[str]) -> None:
        """NotRun unless these tests pass as the source is."""
        status, said = self._pytest(tests, LONGEST_CHECK)
        if status != 0:
            raise NotRun(f"without a mutation these tests should pass, and do not:\n{said}")

    def run(self, mutation: Mutation) -> Outcome:
        """Whether the tests named notice the mutation; NotRun if they do not run at all."""
        place = self.root / mutation.file
        right, began = place.read_text(), time.monotonic()
        place.write_text(mutation.mutated(self.root))
        try:
            status, said = self._pytest(mutation.tests, LONGEST, "-x")
        finally:
            place.write_text(right)
        if status not in (0, _FAILED):
            raise NotRun(f"mutation {mutation.name}: its tests do not run:\n{said}")
        return Outcome(mutation, status == _FAILED, time.monotonic() - began)

    @property
    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join((str(self.root), str(self.root / "kernels")))
        # what is compiled is known by size and second: a mutant could be taken for the original
        return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def _pytest(self, tests: Sequence[str], longest: float, *options: str) -> tuple[int, str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            "0",
            "--tb=line",
            "--timeout=60",
            *options,
        ]
        with subprocess.Popen(
            [*command, *dict.fromkeys(tests)], cwd=self.root, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as running:  # fmt: skip
            try:
                said, _ = running.communicate(timeout=longest)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                return _FAILED, "it hangs"
        return running.returncode, said[-4000:]


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Copy]]:
    """So many copies of the source; they go at the end."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        made = [Copy(Path(folder) / str(number)) for number in range(count)]
        for copy in made:
            copy.root.mkdir()
            copy.prepare()
        yield made


def run(mutations: Sequence[Mutation], jobs: int, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """The outcomes, in the order of the mutations; each is told as soon as it is known."""
    with copies(jobs) as made, ThreadPoolExecutor(jobs) as threads:
        free: SimpleQueue[Copy] = SimpleQueue()
        for copy in made:
            free.put(copy)

        def check(tests: Sequence[str]) -> None:
            with taken_from(free) as copy:
                copy.check(tests)

        def one(mutation: Mutation) -> Outcome:
            with taken_from(free) as copy:
                outcome = copy.run(mutation)
            tell(outcome)
            return outcome

        tests = list(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
        list(threads.map(check, filter(None, (tests[number::jobs] for number in range(jobs)))))
        return list(threads.map(one, mutations))


@contextlib.contextmanager
def taken_from(free: SimpleQueue[Copy]) -> Iterator[Copy]:
    """A copy that nobody else uses meanwhile."""
    copy = free.get()
    try:
        yield copy
    finally:
        free.put(copy)
