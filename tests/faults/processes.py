"""Processes that can be killed, stopped and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

TESTS = Path(__file__).parents[1]


class NotStarted(Exception):
    """The process ended before it said anything; why stands in what it wrote to its error output."""


class Process:
    """A script under `tests`, called with one JSON argument; `said` is the first line it prints.

    `prefix` is a command that runs it in another place.
    """

    def __init__(self, script: str, argument: Any, prefix: Sequence[str] = ()) -> None:
        path = os.pathsep.join([str(TESTS.parent), *filter(None, sys.path)])
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, str(TESTS / script), json.dumps(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.popen.stdout is not None
        self.said = self.popen.stdout.readline().strip()
        if not self.said:
            self.kill()
            raise NotStarted(script)

    def kill(self) -> None:
        """Ends it without a word; ending it twice is allowed."""
        self.popen.kill()
        self.popen.communicate()

    def stop(self) -> None:
        """Stops it where it is, and returns once it stands still."""
        self.popen.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{self.popen.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

    def go_on(self) -> None:
        """Lets it go on."""
        self.popen.send_signal(signal.SIGCONT)

    def end(self, within: float) -> int:
        """Asks it to end; its exit status."""
        self.popen.terminate()
        return self.popen.wait(within)


class StoreProcess(Process):
    """A served store of these configuration tables."""

    script = "faults/store_process.py"

    def __init__(self, tables: dict[str, Any]) -> None:
        self.tables = {**tables, "service": {"port": 0, **tables.get("service", {})}}
        super().__init__(self.script, self.tables)
        self.address = self.said

    def again(self) -> Self:
        """Another one in its place, once this one is gone."""
        port = int(self.address.rpartition(":")[2])
        return type(self)({**self.tables, "service": {**self.tables["service"], "port": port}})
