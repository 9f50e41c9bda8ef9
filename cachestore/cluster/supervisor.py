"""Keeps a Ray of our own, with stores and workers on it, for as long as this process lives.

`cachestore up` starts it in the background and `cachestore down` ends it; the note it leaves in the user's state folder
says which process it is and where the store listens.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import Any

from cachestore.cluster.deploy import Deployment, Tell, down, up
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import build


def note() -> Path:
    """Where the running supervisor leaves its note."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "cachestore" / "up.json"


def running() -> dict[str, Any] | None:
    """The note of a supervisor that is alive, else None."""
    try:
        found: dict[str, Any] = json.loads(note().read_text())
        os.kill(int(found["pid"]), 0)
        command = Path(f"/proc/{found['pid']}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError):
        return None
    # a process id is used again after a while
    return found if b"cachestore" in command else None


def stay(tables: Mapping[str, Any], tell: Tell, ready: Callable[[Deployment], None]) -> None:
    """Brings everything up, says so to `ready`, and takes it down on SIGTERM or SIGINT."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tell("starting Ray")
    with Runtime(build(ClusterSettings, tables.get("cluster", {}), "cluster")) as runtime:
        # Ray puts its own handlers in place when it starts
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        try:
            ready(up(runtime, tables, tell))
            stop.wait()
        finally:
            tell("stopping")
            down(runtime)


def main() -> None:
    """The process behind `cachestore up`: tables on standard input, progress and errors on standard output."""
    tables = json.load(sys.stdin)
    place = note()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def say(message: Mapping[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    def ready(deployment: Deployment) -> None:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"pid": os.getpid(), "stores": dict(deployment.stores)}, file)
        say({"ready": dict(deployment.stores)})
        # whoever started us may be gone from now on
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)

    code = 0
    try:
        stay(tables, lambda text: say({"doing": text}), ready)
    except Exception as error:
        say({"error": str(error), "kind": type(error).__name__})
        code = 1
    finally:
        place.unlink(missing_ok=True)
    sys.stdout.flush()
    # an interpreter that leaves Ray the ordinary way may wait for it for ever
    os._exit(code)


if __name__ == "__main__":
    main()
