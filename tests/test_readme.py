"""What the README shows is what works."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from cachestore import settings
from cachestore.demo.documents import from_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def fenced(language: str) -> list[str]:
    """The README's blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_configuration_passes_the_check() -> None:
    (text,) = fenced("toml")
    settings.check(tomllib.loads(text))


def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = fenced("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["cpu", "64", "1048576"] * 2


def test_the_prompts_are_read(tmp_path: Path) -> None:
    (text,) = fenced("json")
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(json.loads(text)))
    (document,) = from_file(path)
    assert document.questions[0].answer == "two years"


def test_files_and_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(fenced("sh")), re.MULTILINE):
        assert f"\n{target}: " in makefile
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README) + re.findall(r"`(cachestore/[\w/]+\.py)`", README):
        assert (ROOT / path).exists(), path
