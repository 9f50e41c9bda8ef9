"""The note of a supervisor: who is believed to be up; without Ray."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachestore.cluster import supervisor


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "cachestore").mkdir()
    return tmp_path


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    """A process with this word in its command line."""
    started: list[subprocess.Popen[bytes]] = []

    def run(word: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()", word], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        # between fork and exec its command line is still ours
        assert process.stdout is not None and process.stdout.readline()
        return process.pid

    yield run
    for process in started:
        process.kill()
        process.communicate()


def note(content: object) -> None:
    supervisor.note().write_text(json.dumps(content))


def test_without_a_note_nobody_is_up() -> None:
    assert supervisor.running() is None


def test_one_that_is_alive(start: Callable[[str], int]) -> None:
    found = {"pid": start("cachestore.cluster.supervisor"), "stores": {"node": "127.0.0.1:1"}}
    note(found)
    assert supervisor.running() == found
    assert str(found["pid"]) in supervisor.already(found)


def test_one_that_was_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    note({"pid": process.pid, "stores": {}})
    assert supervisor.running() is None


def test_a_process_id_that_somebody_else_has_now(start: Callable[[str], int]) -> None:
    note({"pid": start("editor"), "stores": {}})
    assert supervisor.running() is None


@pytest.mark.parametrize("content", [{}, [], {"pid": "x", "stores": {}}, 3])
def test_what_is_no_note(content: object) -> None:
    note(content)
    assert supervisor.running() is None
    supervisor.note().write_text("{")
    assert supervisor.running() is None


def test_where_it_is_without_a_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert supervisor.note() == Path("/home/somebody/.local/state/cachestore/up.json")
