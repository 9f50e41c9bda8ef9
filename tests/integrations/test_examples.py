"""The commands that people copy, from `examples/integrations` and the page on engines, name what is there."""

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples" / "integrations").glob("*.sh"))
ECHO = "#!/bin/sh\nfor given; do printf '%s\\0' \"$given\"; done\n"
NAMED = (("module_path", "class_name"), ("kv_connector_module_path", "kv_connector"), ("module_path", "type"))
"""Where engines are told a module, and a class in it."""


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    """This table, and those in it."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _nested(each)


def check(texts: list[str], address: str) -> None:
    """What an engine is handed in JSON names classes of ours, which are there, and the store's address."""
    found, classes = [table for text in texts for table in _nested(json.loads(text))], 0
    for table in found:
        for module_key, class_key in NAMED:
            if table.get(module_key) and table.get(class_key, "plugin") != "plugin":
                assert table[class_key] in defined(table[module_key])
                classes += 1
    assert classes
    assert [table["address"] for table in found if "address" in table] == [address]


def defined(module: str) -> set[str]:
    """The classes of a module, which may need an engine to be imported."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return {node.name for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.ClassDef)}


@pytest.fixture
def handed(tmp_path: Path) -> Callable[..., list[str]]:
    """What a script of the examples hands its engine in JSON."""

    def run(script: Path, *address: str) -> list[str]:
        for name in ("python", "vllm", "lmcache"):
            (tmp_path / name).write_text(ECHO)
            (tmp_path / name).chmod(0o755)
        model = [] if script.name == "lmcache_server.sh" else ["some/model"]
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        command = [str(script), *model, *address]
        made = subprocess.run(command, env={**os.environ, **path}, stdout=subprocess.PIPE, text=True, check=True)
        return [text for text in made.stdout.split("\0") if text.startswith("{")]

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_hand_their_engine_our_classes_and_the_address(script: Path, handed: Callable[..., list[str]]) -> None:
    check(handed(script, "store.example:7420"), "store.example:7420")


def test_commands_of_the_page_are_those_of_the_scripts(handed: Callable[..., list[str]]) -> None:
    page = (ROOT / "docs" / "integrations.md").read_text()
    blocks = "".join(re.findall(r"^```\w*\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    found = [text for text in re.findall("'([^']*)'", blocks) if "cachestore." in text]
    # vLLM's connector and tier, SGLang, LMCache's server
    assert len(found) == 4
    for text in found:
        check([text], "127.0.0.1:7420")
    for script in SCRIPTS:
        (text,) = handed(script)
        assert json.loads(text) in map(json.loads, found), script.name
