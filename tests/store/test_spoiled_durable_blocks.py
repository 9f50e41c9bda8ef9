"""Durable blocks that were spoiled on the disk count once, however the process ended meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cachestore.metrics import total
from cachestore.store import repairing, upkeep
from cachestore.store.compose import compose
from cachestore.testing import random_prompt
from tests.store.durable_puts import SPEC, keep

KEYS, BLOCKS = random_prompt(SPEC, 3)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "EVERY_SECONDS", 0.0)


KILLED = """
import os
import signal
import sys
from pathlib import Path

from cachestore.metrics import total
from cachestore.store import repairing
from cachestore.store.base import Durability
from cachestore.store.compose import compose
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(repairing, sys.argv[2], die)
tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": sys.argv[1], "capacity": "4MiB"}]
keys, blocks = random_prompt(small_spec(), 1)
with compose({"tiers": tiers}) as tiered:
    store = tiered.namespace("a")
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit()
    store.clear("cpu")
    (path,) = [path for path in Path(sys.argv[1]).rglob(keys.keys[0].hex()) if path.is_file()]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with store.read(keys) as reading:
        list(reading)
    tiered.settle()
"""


def found_again(folder: str) -> None:
    """A store on the folder finds out what its predecessor knew when it ended."""
    tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": folder, "capacity": "4MiB"}]
    with compose({"tiers": tiers}) as tiered:
        store = tiered.namespace("a")
        for _ in range(2):
            with store.read(KEYS.first(1)) as reading:
                assert list(reading) == []
            assert tiered.settle() and total(store.stats(), "data_loss", tier="disk") == 1
        assert store.lookup(KEYS).ready == 0 and total(store.stats(), "tier_blocks", tier="disk") == 0
        assert total(store.stats(), "tier_removed", tier="disk", why="lost") == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["whole", "repair"])
def test_a_block_that_is_being_repaired_when_the_process_is_killed_counts_after_the_restart(
    tmp_path: Path, where: str
) -> None:
    folder = str(tmp_path / "blocks")
    assert subprocess.run([sys.executable, "-c", KILLED, folder, where]).returncode == -signal.SIGKILL
    found_again(folder)


def test_a_block_whose_repair_never_began_counts_after_the_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "blocks"
    tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": str(folder), "capacity": "4MiB"}]
    with compose({"tiers": tiers}) as tiered:
        store = tiered.namespace("a")
        keep(store, KEYS.first(1), BLOCKS[:1])
        store.clear("cpu")
        (path,) = [path for path in folder.rglob(KEYS.keys[0].hex()) if path.is_file()]
        path.write_bytes(path.read_bytes()[:-64] + bytes(64))
        with monkeypatch.context() as patched:
            patched.setattr(repairing, "repair", lambda *_: None)
            with store.read(KEYS.first(1)) as reading:
                assert list(reading) == []
            assert tiered.settle() and total(store.stats(), "corruptions", tier="disk") == 1
    found_again(str(folder))


@pytest.mark.parametrize("killed", [True, False])
def test_a_durable_block_that_was_cut_while_nobody_looked_counts_at_the_start(tmp_path: Path, killed: bool) -> None:
    tables: dict[str, Any] = {"tiers": [{"name": "cpu", "capacity": "1MiB"}]}
    tables["tiers"].append({"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"})
    with compose(tables) as tiered:
        keep(tiered.namespace("a"), KEYS.first(1), BLOCKS[:1])
    (path,) = [path for path in (tmp_path / "blocks").rglob(KEYS.keys[0].hex()) if path.is_file()]
    os.truncate(path, 2000)
    if killed:
        # before anything was done about it
        disk = compose(tables).cold[0]
        told: list[Any] = []
        disk.open(told.extend)
        disk.close()
        assert [(departure.why, departure.reason, departure.durable) for departure in told] == [
            ("corrupt", "truncated", True)
        ]
    with compose(tables) as tiered:
        store = tiered.namespace("a")
        assert tiered.settle() and total(store.stats(), "data_loss", tier="disk") == 1
        assert not path.exists() and store.lookup(KEYS).ready == 0
    with compose(tables) as tiered:
        assert tiered.settle() and total(tiered.namespace("a").stats(), "data_loss") == 0
