"""A store whose process gets no more memory: it does without or says so, and nothing half-written is ever read."""

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cachestore.errors import Overloaded
from cachestore.service.client import RemoteStore
from cachestore.store.base import Lease
from tests.faults.calls import heals, outcome, putting, reading
from tests.faults.processes import StoreProcess
from tests.faults.values import prompt
from tests.faults.wire import LARGE

SLACK = 4 << 20
"""Bytes that the process may still map for its calls: less than any slab."""


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[StoreProcess]:
    tiers = [
        {"name": "cpu", "capacity": "2GiB", "slab": "64MiB"},
        {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1GiB"},
    ]
    process = StoreProcess({"tiers": tiers, "codecs": {"name": "raw"}})
    yield process
    process.kill()


def limit(process: StoreProcess, nbytes: int) -> None:
    """Lets the process map so many bytes and no more."""
    _, hard = resource.prlimit(process.popen.pid, resource.RLIMIT_AS)
    resource.prlimit(process.popen.pid, resource.RLIMIT_AS, (nbytes, hard))


def mapped(process: StoreProcess) -> int:
    return int(Path(f"/proc/{process.popen.pid}/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.slow
def test_m1_without_memory_blocks_are_refused_and_none_is_broken(
    stored: StoreProcess, transports: Sequence[str]
) -> None:
    prompts = [prompt(LARGE, 8, seed) for seed in range(8)]
    with RemoteStore(stored.address, transports=transports) as store:
        assert putting(store, *prompts[0]) == ["stored"] * 8
        limit(stored, mapped(stored) + SLACK)
        # one slab is all there is: what others leave, and what they do not under a lease
        answers = [putting(store, keys, blocks) for keys, blocks in prompts[1:]]
        leases = [outcome(lambda keys=keys: store.lease(keys, ttl=60.0), 10.0) for keys, _ in prompts[::-1]]  # type: ignore[misc]
        refused = putting(store, *prompt(LARGE, 8, 98))
        for (keys, _), answer in zip(prompts[1:], answers, strict=True):
            assert isinstance(answer, Overloaded) or set(answer) <= {"stored", "not_kept"}, answer
            if answer == ["stored"] * 8:
                assert reading(store, keys) == 8
        assert isinstance(refused, Overloaded) or "not_kept" in refused, refused
        limit(stored, resource.RLIM_INFINITY)
        heals(lambda: store.stats(timeout=1.0))
        for lease in leases:
            if isinstance(lease, Lease):
                store.release(lease)
        assert putting(store, *prompt(LARGE, 8, 99)) == ["stored"] * 8
