"""`python -m MODULE`, forked of a process that has the library of models already, which takes five CPU-seconds."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TextIO
from unittest import mock

ROOT = Path(__file__).parents[2]
IMPORTED = [
    __name__, "decode_worker.__main__", "prefill_worker.__main__", "gateway.__main__", "cachestore.engine.runner",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
]  # fmt: skip


@dataclass
class Fork:
    """A process, with what tests need of `subprocess.Popen`."""

    process: ForkServerProcess
    stdin: TextIO
    stdout: TextIO

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        """Does nothing to one that was waited for."""
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; TimeoutExpired if there is none in time."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout or 0.0)
        return self.process.exitcode


def fork(module: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> Fork:
    """Starts it with standard input and output of its own; `log` is its standard error."""
    context = multiprocessing.get_context("forkserver")
    # of this process' first call only: there is one server
    context.set_forkserver_preload(IMPORTED)
    with mock.patch.dict(os.environ, environment, PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)])):
        forkserver.ensure_running()
    theirs, stdin = context.Pipe(duplex=False)
    stdout, ours = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(module, arguments, environment, (theirs, ours), log), daemon=True)
    process.start()
    theirs.close()
    ours.close()
    return Fork(process, _file(stdin, "w"), _file(stdout, "r"))


def _file(end: Connection, mode: str) -> TextIO:
    with end:
        return os.fdopen(os.dup(end.fileno()), mode)


def _run(
    module: str, arguments: Sequence[str], environment: dict[str, str], ends: Sequence[Connection], log: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, end in enumerate(ends):
        with end:
            os.dup2(end.fileno(), number)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
