"""Keeps a Ray of our own, with stores and workers on it, for as long as this process lives.

`cachestore up` starts it in the background and `cachestore down` ends it; the note it leaves in the user's state folder
says which process it is, and where store and gateway listen.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cachestore.cluster.deploy import Deployment, down, up
from cachestore.cluster.gateway_health import certificate
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.workers import Tell
from cachestore.config import build
from cachestore.errors import ConfigError
from cachestore.signals import await_signal


def note() -> Path:
    """Where the running supervisor leaves its note."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "cachestore" / "up.json"


def already(found: Mapping[str, Any]) -> str:
    """What to say when there is one."""
    return f"already up, or coming up, as process {found['pid']}; take it down first: cachestore down"


def running() -> dict[str, Any] | None:
    """The note of a supervisor that is alive, else None."""
    try:
        found: dict[str, Any] = json.loads(note().read_text())
        os.kill(int(found["pid"]), 0)
        command = Path(f"/proc/{found['pid']}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # a process id is used again after a while
    return found if b"cachestore" in command else None


def stay(tables: Mapping[str, Any], tell: Tell, ready: Callable[[Deployment], None]) -> None:
    """Brings everything up, says so to `ready`, and takes it down on SIGTERM or SIGINT.

    KeyboardInterrupt if that comes before everything is up.
    """
    told: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        # a library may swallow the exception; what was asked stays asked
        told.append(number)
        raise KeyboardInterrupt

    _on_signals(interrupt)
    is_up = False
    try:
        tell("starting Ray")
        with Runtime(build(ClusterSettings, tables.get("cluster", {}), "cluster")) as runtime:
            # Ray puts its own handlers in place when it starts
            _on_signals(interrupt)
            try:
                deployment = up(runtime, tables, tell)
                if told:
                    raise KeyboardInterrupt
                ready(deployment)
                is_up = True
                await_signal(told)
            finally:
                # whoever is impatient must not leave half of it behind
                _on_signals(signal.SIG_IGN)
                tell("stopping")
                down(runtime)
    except KeyboardInterrupt:
        if not is_up:
            raise


def main() -> None:
    """The process behind `cachestore up`: tables on standard input, progress and errors on standard output."""
    tables = json.load(sys.stdin)
    code = 0
    try:
        with _noted(_said(tables)) as update:

            def ready(deployment: Deployment) -> None:
                update(deployment)
                _say({"ready": dict(deployment.stores), "gateway": deployment.gateway})
                # whoever started us may be gone from now on
                silent = os.open(os.devnull, os.O_WRONLY)
                for stream in (1, 2):
                    os.dup2(silent, stream)

            stay(tables, lambda text: _say({"doing": text}), ready)
    except KeyboardInterrupt:
        code = 1
    except Exception as error:
        with suppress(OSError):
            _say({"error": str(error), "kind": type(error).__name__})
        code = 1
    # an interpreter that leaves Ray the ordinary way may wait for it for ever
    os._exit(code)


def _said(tables: Mapping[str, Any]) -> dict[str, Any]:
    """How long requests have to end, for who takes it down; the gateway's certificate, for who asks how it is."""
    drain = build(ClusterSettings, tables.get("cluster", {}), "cluster").drain
    return {"drain": drain, "gateway_cert": certificate(tables)}


@contextmanager
def _noted(said: Mapping[str, Any]) -> Iterator[Callable[[Deployment], None]]:
    """Leaves a note with what is `said` while the context lasts; the function inside says what is up. One at a time."""
    place = note()
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write {place.parent}: {error.strerror}; set XDG_STATE_HOME to a folder of yours"
        ) from error
    before = running()
    if before is not None:
        raise ConfigError(already(before))
    # what a killed supervisor left
    place.unlink(missing_ok=True)

    def update(deployment: Deployment) -> None:
        # whoever reads meanwhile sees the old note or the new one
        draft = place.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            found = {"pid": os.getpid(), "stores": dict(deployment.stores), "gateway": deployment.gateway}
            json.dump({**found, **said}, file)
        draft.replace(place)

    update(Deployment({}))
    try:
        yield update
    finally:
        place.unlink(missing_ok=True)


def _on_signals(what: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, what)


def _say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
