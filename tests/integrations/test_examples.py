"""The commands that people copy, from `examples/integrations` and the page on engines, name what is there.

That engines understand them is tried where they are installed, in the contract test of each.
"""

import ast
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.commands import SCRIPTS, of_page, of_script

NAMES = sorted(path.name for path in SCRIPTS.glob("*.sh"))
NAMED = (("module_path", "class_name"), ("kv_connector_module_path", "kv_connector"), ("module_path", "type"))
"""Where engines are told a module, and a class in it."""
STARTS = ("vllm serve", "lmcache server", "python -m sglang")


def _tables(words: list[str]) -> Iterator[dict[str, Any]]:
    """The tables among the words of a command, and those in them."""
    for word in words:
        if word.startswith("{"):
            yield from _nested(json.loads(word))


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _nested(each)


def check(words: list[str], address: str) -> None:
    """What an engine is handed names classes of ours, which are there, and the store's address."""
    found, classes = list(_tables(words)), 0
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


def handed(name: str, *address: str) -> list[str]:
    return of_script(name, "REVISION" if name == "lmcache_server.sh" else "MODEL", *address)


@pytest.mark.parametrize("name", NAMES)
def test_scripts_hand_their_engine_our_classes_and_the_address(name: str) -> None:
    check(handed(name, "store.example:7420"), "store.example:7420")


def test_commands_of_the_page_are_those_of_the_scripts() -> None:
    commands = [words for start in STARTS for words in of_page(start)]
    ours = [words for words in commands if "cachestore." in "".join(words)]
    # vLLM's connector and tier, SGLang, LMCache's server
    assert len(ours) == 4
    for words in ours:
        check(words, "127.0.0.1:7420")
    told = [list(_tables(words)) for words in ours]
    for name in NAMES:
        assert list(_tables(handed(name))) in told, name
