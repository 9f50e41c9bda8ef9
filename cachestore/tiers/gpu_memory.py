"""Memory on a torch device that other processes of this node can open.

    cpu     a memfd, for tests and for machines without a GPU
    cuda    `cachestore.tiers.gpu_cuda`

It comes in pieces of `GRANULE` bytes, zeroed, and is gone with the last view of it. What goes wrong with a device is
one of `DEVICE_ERRORS`.
"""

import fcntl
import mmap
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cachestore.block import Buffer
from cachestore.errors import ConfigError, Mismatch

GRANULE = 2 << 20
"""The driver shares memory with other processes in whole pieces of this size, so nothing else may lie in them."""

DEVICE_ERRORS = (RuntimeError, MemoryError, OSError)
"""torch raises RuntimeError for whatever a device does; out of memory is one, too."""

_F_SEAL_FUTURE_WRITE = 0x0010


@dataclass(frozen=True, eq=False)
class Allocation:
    """`tensor` is uint8 [nbytes]; `token` and `descriptor` (-1: none) are what another process opens it with."""

    tensor: Tensor
    token: bytes = b""
    descriptor: int = -1

    def close(self) -> None:
        """Gives up the descriptor; the memory goes when the last view of it does."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


class DeviceMemory(Protocol):
    """The memory of one device. Whatever fails raises one of `DEVICE_ERRORS`."""

    @property
    def name(self) -> str:
        """The same in all processes of this node: "cpu", or what the driver calls this GPU."""

    @property
    def device(self) -> torch.device:
        """What torch calls it in this process."""

    def allocate(self, nbytes: int) -> Allocation:
        """`nbytes` of zeros, a multiple of `GRANULE`."""

    def attach(self, nbytes: int, token: bytes, descriptor: int) -> Tensor:
        """Another process's allocation, as uint8 [nbytes]; for reading only. The descriptor stays the caller's."""

    def fill(self, page: Tensor, write: Callable[[Buffer], None]) -> None:
        """Has `write` fill host memory of the page's size, which is in the page when this returns."""

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copies bytes to, from or within the device; done when it returns."""

    def fence(self) -> None:
        """What is copied from now on waits for what the calling thread has queued on the device so far."""

    def aside(self) -> AbstractContextManager[object]:
        """Work that is queued inside does not wait for what others have queued on the device."""


def memory_of(device: str) -> DeviceMemory:
    """The memory of a torch device; ConfigError if it is not there."""
    if torch.device(device).type == "cpu":
        return HostMemory()
    from cachestore.tiers.gpu_cuda import CudaMemory

    try:
        return CudaMemory(torch.device(device))
    except (ImportError, *DEVICE_ERRORS) as error:
        raise ConfigError(
            f'tiers.gpu.device = "{device}" names a device that is not there ({error}); '
            'use device = "cpu" or remove the tier'
        ) from error


def memory_named(name: str) -> DeviceMemory:
    """The memory of the device of this name; Mismatch if this process does not see it."""
    if name == HostMemory.name:
        return HostMemory()
    from cachestore.tiers.gpu_cuda import device_named

    device = device_named(name)
    if device is not None:
        return memory_of(str(device))
    raise Mismatch(
        f"this process does not see the device {name!r}; set CUDA_VISIBLE_DEVICES as in the process that owns it"
    )


def share_readable(nbytes: int) -> tuple[mmap.mmap, int]:
    """Fresh shared memory to write to, and a descriptor that others can map for reading only."""
    writable = os.memfd_create("cachestore-gpu", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(writable, nbytes)
        mapped = mmap.mmap(writable, nbytes)
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        with suppress(OSError):
            # or a reader could open the descriptor again for writing; kernels before 5.1 do not know it
            fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        return mapped, os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


class HostMemory:
    """The host's memory as if it were a device's."""

    name = "cpu"
    device = torch.device("cpu")

    def allocate(self, nbytes: int) -> Allocation:
        mapped, descriptor = share_readable(nbytes)
        return Allocation(torch.frombuffer(mapped, dtype=torch.uint8), descriptor=descriptor)

    def attach(self, nbytes: int, token: bytes, descriptor: int) -> Tensor:
        if descriptor < 0:
            raise OSError("memory of the host is opened by a descriptor, and there is none")
        # a private mapping: torch knows no read-only tensors, and so what a reader writes stays with itself
        return torch.frombuffer(mmap.mmap(descriptor, nbytes, access=mmap.ACCESS_COPY), dtype=torch.uint8)

    def fill(self, page: Tensor, write: Callable[[Buffer], None]) -> None:
        write(page.numpy())

    def copy(self, source: Tensor, target: Tensor) -> None:
        # in this thread, where torch would share it out
        np.copyto(target.numpy(), source.numpy())

    def fence(self) -> None:
        pass

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()
