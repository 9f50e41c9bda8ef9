"""`cachestore demo` with what it cannot use: it says so before it starts anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.cluster.settings import ClusterSettings
from cachestore.demo import run
from cachestore.errors import Unavailable


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


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_no_time_to_start_is_refused(command: Callable[..., Any], seconds: str) -> None:
    assert "--start-timeout must be more than 0 seconds" in command("demo", "--start-timeout", seconds).refused(1)


def test_what_starts_too_slowly_is_told_by_the_demos_option(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRay:
        def __init__(self, settings: ClusterSettings) -> None:
            self.settings = settings

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def too_slow(runtime: NoRay, *_: object) -> None:
        raise Unavailable(
            f"the store did not start within cluster.start_timeout = {runtime.settings.start_timeout:g} s"
        )

    monkeypatch.setattr(run, "Runtime", NoRay)
    monkeypatch.setattr(run, "up", too_slow)
    monkeypatch.setattr(run, "down", lambda _: None)
    for given, seconds in (([], 180), (["--start-timeout", "5"], 5)):
        line = command("demo", *given).refused(1)
        assert f"did not start within --start-timeout = {seconds} s" in line and "give --start-timeout more" in line
        assert "cluster." not in line
