"""What the README and the pages of docs/ show is what works."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from cachestore import settings
from cachestore.block import Block, BlockSpec, Slot
from cachestore.cli.app import app
from cachestore.codecs import CODECS
from cachestore.config import build
from cachestore.demo.documents import from_file
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.settings import EngineSettings
from cachestore.eviction import EVICTIONS
from cachestore.hashing import chain
from cachestore.recipe import canonical
from cachestore.registry import Catalogue
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.store.settings import StoreSettings
from cachestore.tiers import TIERS
from decode_worker.settings import DecodeSettings
from gateway.keys import KeySettings
from gateway.settings import GatewaySettings
from prefill_worker.settings import PrefillSettings

ROOT = Path(__file__).parents[1]
PAGES = {
    page: (ROOT / page).read_text()
    for page in (
        "README.md",
        "docs/faults.md",
        "docs/tiers.md",
        "docs/codecs.md",
        "docs/eviction.md",
        "docs/statistics.md",
        "docs/security.md",
        "docs/events.md",
        "docs/wire.md",
        "docs/scheduling.md",
        "docs/batching.md",
        "docs/gateway.md",
        "docs/serving.md",
        "docs/directory.md",
        "docs/cluster.md",
        "docs/integrations.md",
    )
}
PRINTED = {"README.md": ["cpu", "64", "1048576"] * 2, "docs/events.md": ["0"], "docs/scheduling.md": ["['a']"]}
"""What the Python of a page prints."""
ENGINES = ("python -m sglang", "python -m vllm")
"""How commands begin that are not ours, and not installed here."""


def fenced(page: str, language: str = "") -> list[str]:
    """A page's blocks in one language."""
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    return [text for written, text in blocks if written == language]


def everywhere(language: str) -> list[tuple[str, str]]:
    """The blocks of all pages in one language, each with its page."""
    return [(page, text) for page in PAGES for text in fenced(page, language)]


def commands(page: str, program: str) -> list[list[str]]:
    """The words behind each `program` of a page, in its blocks and in its text, those included that may be left out."""
    plain = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", plain)]
    lines = [line for text in fenced(page, "sh") + fenced(page) for line in text.splitlines()]
    # what may be left out, and what may be repeated
    ours = [line for line in [*inline, *lines] if line.startswith(f"{program} ") and not line.startswith(ENGINES)]
    asked = [re.sub(r"[\[\]]|\.\.\.", " ", line) for line in ours]
    return [shlex.split(line.removeprefix(program), comments=True) for line in asked]


@pytest.mark.parametrize(("page", "text"), everywhere("toml"))
def test_the_configuration_loads(page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for making in (line for line in "".join(fenced(page, "sh")).splitlines() if "openssl" in line):
        if which("openssl") is None:
            pytest.skip("the page makes a key with openssl")
        subprocess.run(["sh", "-ec", making], check=True)
    tables = tomllib.loads(text)
    if "keys" in tables:
        # the gateway's file of keys
        assert [build(KeySettings, key, "keys").name for key in tables["keys"]]
        return
    path = tmp_path / "store.toml"
    path.write_text(text)
    settings.load(path)


@pytest.mark.parametrize(("page", "text"), everywhere("python"))
def test_the_python_runs(page: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(text, page, "exec"), {})
    assert capsys.readouterr().out.split() == PRINTED.get(page, [])


@pytest.mark.parametrize(
    ("page", "words"), [(page, words) for page in PAGES for words in commands(page, "cachestore")], ids=str
)
def test_the_command_line_knows_it(page: str, words: list[str]) -> None:
    command, name = get_command(app), "cachestore"
    while words and words[0] in getattr(command, "commands", {}):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)


@cache
def helped(*program: str) -> str:
    """What a program says of its options, asked once."""
    return subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "words"), [(page, words) for page in PAGES for words in commands(page, "python")], ids=str
)
def test_programs_have_their_options(page: str, words: list[str]) -> None:
    program = words[:2] if words[0] == "-m" else words[:1]
    name = program[1].replace(".", "/") if program[1:] else program[0]
    assert any((ROOT / (name + end)).exists() for end in ("", ".py"))
    options = {word for word in words[len(program) :] if word.startswith("--")}
    if options:
        assert options <= set(re.findall(r"--[\w-]+", helped(*program)))


def headings(page: Path) -> set[str]:
    """What links call the headings of a page."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_files_and_targets_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in [words[0] for words in commands(page, "make")]:
        assert f"\n{target}: " in makefile
    for link in re.findall(r"\]\(([^)h][^)]*)\)", PAGES[page]):
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not heading or heading in headings(target), link
    for path in re.findall(r"`(\w+/[\w/]+\.py)`", PAGES[page]):
        assert (ROOT / path).exists() or (ROOT / "tests" / path).exists(), path


def test_the_prompts_are_read(tmp_path: Path) -> None:
    (text,) = fenced("README.md", "json")
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(json.loads(text)))
    (document,) = from_file(path)
    assert document.questions[0].answer == "two years"


def test_the_recipes_are_spelt_as_they_must_be() -> None:
    recipes = re.findall(r"^    (quantisation=.*)$", PAGES["docs/codecs.md"], re.MULTILINE)
    assert recipes and [canonical(recipe) for recipe in recipes] == recipes


@pytest.mark.parametrize("tier", TIERS.names())
def test_every_setting_of_a_tier_is_explained(tier: str) -> None:
    (table,) = re.findall(rf"^\*\*`{tier}`\*\*(?:.*\n)+?((?:\|.*\n)+)", PAGES["docs/tiers.md"], re.MULTILINE)
    assert explained(table) == {field.name for field in fields(TIERS.load(tier))}


@pytest.mark.parametrize(
    ("section", "page", "kind"),
    [
        ("store", "docs/tiers.md", StoreSettings),
        ("batch", "docs/batching.md", BatchSettings),
        ("gateway", "docs/gateway.md", GatewaySettings),
        ("engine", "docs/serving.md", EngineSettings),
        ("prefill_worker", "docs/serving.md", PrefillSettings),
        ("decode_worker", "docs/serving.md", DecodeSettings),
    ],
)
def test_every_setting_of_a_section_is_explained(section: str, page: str, kind: type[Any]) -> None:
    heading = f"`[{section}]`"
    (table,) = re.findall(rf"\n\n(\| {re.escape(heading)} \|.*\n(?:\|.*\n)+)", PAGES[page])
    assert explained(table) == {heading.strip("`"), *(field.name for field in fields(kind))}


@pytest.mark.parametrize(("catalogue", "page"), [(CODECS, "docs/codecs.md"), (EVICTIONS, "docs/eviction.md")])
def test_every_method_and_its_settings_are_named(catalogue: Catalogue, page: str) -> None:
    for method in catalogue.names():
        for name in [method, *(field.name for field in fields(catalogue.load(method)))]:
            assert re.search(rf"`{name}`|^{name} = ", PAGES[page], re.MULTILINE), name


def test_every_figure_is_defined() -> None:
    spec = BlockSpec("my/model", "4f2a9c1", "bfloat16", (Slot(8, 128, 128),), head_groups=8)
    keys = chain(spec, list(range(64)))
    block = Block(keys.keys[0], 64, spec.planes(), [np.zeros(plane.raw_bytes, np.uint8) for plane in spec.planes()])
    with compose({"tiers": [{"name": "cpu", "capacity": "64MiB"}, {"name": "redis"}]}) as tiered:
        store = tiered.namespace("default")
        put_blocks(store, keys.fingerprint, [block])
        store.delete(keys)
        counted = {figure.name for figure in store.stats()}
    assert {"put_blocks", "tier_removed"} <= counted <= set(re.findall(r"`(\w+)`", PAGES["docs/statistics.md"]))


def explained(table: str) -> set[str]:
    """The names in the first column of a table."""
    return {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
