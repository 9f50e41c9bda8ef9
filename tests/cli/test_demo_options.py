"""`cachestore demo` with what it cannot use: it says so before it starts anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("content", "said"), [("[", "is not JSON"), ("[]", "at least one"), ('[{"document": "a"}]', '"questions" must be')]
)
def test_prompts(command: Callable[..., Any], tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    assert said in command("demo", "--prompts", str(path), "--model", "/nowhere").refused(2)


def test_prompts_that_are_not_there(command: Callable[..., Any], tmp_path: Path) -> None:
    assert "No such file" in command("demo", "--prompts", str(tmp_path / "none.json")).refused(2)


def test_model_that_is_not_there(command: Callable[..., Any]) -> None:
    line = command("demo", "--model", "/nowhere/at/all").refused(2)
    assert "engine.model" in line and "/nowhere/at/all" in line


def test_interrupted(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cachestore.demo.documents.needle_documents", interrupt)
    done = command("demo", "--model", "/nowhere")
    assert done.status != 0 and "Traceback" not in done.out + done.err


def test_a_bug_is_one_line_unless_it_is_looked_for(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("one [red]\nline")

    monkeypatch.setattr("cachestore.demo.documents.needle_documents", fail)
    line = command("demo", "--model", "/nowhere").refused(1)
    assert "ZeroDivisionError: one [red] line" in line
    monkeypatch.setenv("CACHESTORE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        command("demo", "--model", "/nowhere")


@pytest.mark.parametrize("nodes", ["0", "9"])
def test_so_many_nodes_are_not_for_one_machine(command: Callable[..., Any], nodes: str) -> None:
    assert "--nodes must lie in 1 .. 8" in command("demo", "--nodes", nodes).refused(1)
