"""A process that is killed right after a removal returned: what was removed does not come back with the next start."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cachestore.store.compose import compose
from cachestore.testing import random_prompt, small_spec

PROGRAM = """
import os, signal, sys, threading, time
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.testing import random_prompt, small_spec

folder, remove = sys.argv[1:]
tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": folder, "capacity": "4MiB"}]
with compose({"tiers": tiers, "store": {"write": "back", "write_delay": 0.01}}) as tiered:
    (disk,) = tiered.cold
    copied = disk.put_many
    copying, removing, arrived = threading.Event(), threading.Event(), threading.Event()

    def copy(*arguments, **options):
        copying.set()
        assert removing.wait(10)
        # a removal that does not wait for the copy is over by now, and one that does not take it back by then
        time.sleep(0.1)
        kept = copied(*arguments, **options)
        arrived.set()
        time.sleep(0.2)
        return kept

    disk.put_many = copy
    store = tiered.namespace("a")
    keys, blocks = random_prompt(small_spec(), 3)
    put_blocks(store, keys.fingerprint, blocks)
    while not copying.wait(0.01):
        tiered.expire()
    removing.set()
    store.delete(keys) if remove == "delete" else store.clear()
    assert arrived.wait(10)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("remove", ["delete", pytest.param("clear", marks=pytest.mark.slow)])
def test_a_copy_that_was_under_way_does_not_come_back(tmp_path: Path, remove: str) -> None:
    folder = tmp_path / "blocks"
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), remove], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": str(folder), "capacity": "4MiB"}]
    keys, _ = random_prompt(small_spec(), 3)
    with compose({"tiers": tiers}) as tiered:
        assert tiered.namespace("a").lookup(keys) == (0, (), 0)
