"""The commands as users run them: processes, and a real store to ask."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cachestore.cli import main, output

ROOT = Path(__file__).parents[2]
STORE = (
    '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n[[tiers]]\nname = "redis"\nurl = "embedded"\ncapacity = "64MiB"\n'
    # a machine that is busy must not end its calls
    'connect_timeout = "2s"\ntimeout = "2s"\n'
)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def object(self) -> Any:
        """The one JSON object it printed."""
        return json.loads(self.out)

    def refused(self, status: int) -> str:
        """The one line of an error with this exit status."""
        assert self.status == status, (self.status, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]


@dataclass
class Serving:
    """A running `cachestore serve`."""

    process: "subprocess.Popen[str]"
    address: str
    tiers: Sequence[str]

    def children(self) -> list[int]:
        """Every process below it."""
        found, look = [], [self.process.pid]
        while look:
            pid = look.pop()
            below = Path(f"/proc/{pid}/task/{pid}/children")
            more = [int(word) for word in below.read_text().split()] if below.exists() else []
            found += more
            look += more
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def environment(**more: str) -> dict[str, str]:
    """As in a plain shell."""
    return {name: value for name, value in os.environ.items() if name != "COLUMNS"} | more


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command to its end, in this process: another one takes seconds to start."""

    # whoever runs the tests may have a narrow terminal
    monkeypatch.setattr(output.console, "width", 140)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["cachestore", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            sys.exit(main())
        out, err = capfd.readouterr()
        return Done(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def process() -> Callable[..., Done]:
    """Runs a command to its end, in a process of its own."""

    def run(*arguments: str, timeout: float = 60, **more: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "cachestore", *arguments], cwd=ROOT, env=environment(**more),
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    """Writes a configuration; its path."""

    def write(text: str) -> str:
        path = tmp_path / f"config-{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Serving]]:
    """Starts servers that pick their port and say it as JSON."""
    started: list[Serving] = []

    def start(text: str = STORE) -> Serving:
        path = tmp_path_factory.mktemp("serve") / "cachestore.toml"
        path.write_text(text)
        assert tomllib.loads(text)
        process = subprocess.Popen(
            [sys.executable, "-m", "cachestore", "serve", "--json", "--port", "0", "--config", str(path)],
            cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("}"):
                break
        said = json.loads("".join(lines))
        started.append(Serving(process, said["address"], said["tiers"]))
        return started[-1]

    yield start
    for serving in started:
        serving.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def store(serve: Callable[..., Serving]) -> Serving:
    """A server with both tiers for the tests of one file."""
    return serve()
