"""What a slab costs the system before it is used."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from cachestore.config import build
from cachestore.errors import ConfigError
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.paging import Paging
from cachestore.tiers.slab import Slab

MIB = 1 << 20

RESIDENT = """
import re
from pathlib import Path
from cachestore.tiers.cpu import CpuTier
from cachestore.tiers.paging import Paging

def shared():
    return 1024 * int(re.search(r"RssShmem:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

tier = CpuTier(256 << 20, 64 << 20, paging=Paging(huge={huge}))
before = shared()
tier.take(bytes(32), 500_000).bytes[:] = 1
print(shared() - before)
"""


@pytest.mark.parametrize("huge", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_only_what_was_written_is_resident(huge: bool) -> None:
    script = RESIDENT.format(huge=huge)
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    # a huge page at most
    assert 500_000 <= int(result.stdout) <= 2 * MIB


@pytest.mark.parametrize("table", [{"huge_pages": "yes"}, {"pinned": True}])
def test_wrong_settings_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"tiers\.cpu\.{next(iter(table))}"):
        build(Cpu, {"capacity": MIB, **table}, "tiers.cpu")


def test_settings_reach_the_slabs() -> None:
    assert Cpu(MIB, huge_pages="never", pinned="never").start().paging == Paging(huge=False, pinned=False)
    assert Cpu(MIB).start().paging == Paging(huge=True, pinned=True)


@pytest.mark.gpu
def test_memory_is_pinned_where_a_device_copies_from_it() -> None:
    slab = Slab(bytes(32), 8 * MIB)
    assert torch.from_numpy(slab.bytes).is_pinned()
    slab.close()
    assert not torch.from_numpy(slab.bytes).is_pinned()
    free = Slab(bytes(32), 8 * MIB, paging=Paging(pinned=False))
    assert not torch.from_numpy(free.bytes).is_pinned()
    free.close()


@pytest.mark.gpu
def test_memory_that_cannot_be_pinned_costs_nothing_else() -> None:
    memory = np.zeros(MIB, dtype=np.uint8)
    assert Paging().pin(memory)
    # what is pinned already is not a second time
    assert not Paging().pin(memory)
    assert torch.ones(8, device="cuda").sum() == 8
    Paging().unpin(memory)
