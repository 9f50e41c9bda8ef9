"""How the memory of a slab is backed: huge pages where the system allows them, pinned where a CUDA device copies.

Neither is needed, so neither fails: a kernel without huge pages for shared memory ignores the advice, and memory that
cannot be pinned is copied through the driver's own buffers.
"""

import logging
import mmap
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cachestore.block import Buffer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paging:
    """Whether to ask for huge pages, and whether to pin."""

    huge: bool = True
    pinned: bool = True

    def advise(self, memory: mmap.mmap) -> None:
        """Asks for huge pages, or for none. Still only pages that are written to become resident, 2 MiB at a time."""
        # a kernel that was built without them knows neither advice
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE if self.huge else mmap.MADV_NOHUGEPAGE)

    def pin(self, memory: Buffer) -> bool:
        """Pins it for copies to and from CUDA devices, which makes all of it resident; whether it did."""
        # pages are pinned for copies that this process starts, and one that has not loaded torch starts none
        if not self.pinned or "torch" not in sys.modules:
            return False
        import torch

        if not torch.cuda.is_available():
            return False
        failed = int(_cuda().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
        if failed:
            log.warning("cpu tier: %d bytes cannot be pinned (CUDA error %d)", memory.nbytes, failed)
            _forget_error()
        return not failed

    def unpin(self, memory: Buffer) -> None:
        """Undoes `pin`."""
        _cuda().cudaHostUnregister(memory.ctypes.data)


def _cuda() -> Any:
    """The CUDA runtime, as torch loaded it."""
    import torch

    cudart: Any = torch.cuda.cudart
    return cudart()


def _forget_error() -> None:
    """The runtime keeps an error for whoever asks next, who would take it for that of a launch of its own."""
    import torch

    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")
