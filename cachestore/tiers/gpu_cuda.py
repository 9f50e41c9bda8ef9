"""Memory of a CUDA device, beside torch's allocator.

An IPC handle opens a whole allocation of the driver's, and torch's allocator would cut several tenants' tensors, and
the engine's own, from one of those. So this memory is taken from the driver itself (`cuMemAlloc`), in multiples of
2 MiB as NVIDIA's documentation of `cuIpcGetMemHandle` demands where processes must not see each other's data. It also
makes the cap exact, and the configuration of torch's allocator immaterial.
"""

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from cachestore.block import Buffer
from cachestore.tiers.gpu_memory import Allocation

TOKEN_BYTES = 64
"""What the driver's IPC handle is long."""


def device_named(name: str) -> torch.device | None:
    """The device that `CudaMemory.name` says, if this process sees it; asking takes no memory on any."""
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if _name(index) == name:
            return torch.device("cuda", index)
    return None


def _name(index: int) -> str:
    return str(torch.cuda.get_device_properties(index).uuid)


class _Owned:
    """Device memory that torch makes a tensor of; `give_back` runs when the last view of it is gone."""

    def __init__(self, pointer: int, nbytes: int, give_back: Callable[[int], None]) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (pointer, False),
            "strides": None,
            "version": 3,
        }
        # at the end of the process the driver takes everything back by itself
        weakref.finalize(self, give_back, pointer).atexit = False


class CudaMemory:
    """The memory of one CUDA device, in the context that torch uses; copies go through a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")
        index = torch.cuda.current_device() if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise RuntimeError(f"torch sees {torch.cuda.device_count()} of them")
        self.device = torch.device("cuda", index)
        self.name = _name(index)
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        # comes with torch where torch comes with CUDA; it has no types
        self._driver: Any = import_module("cuda.bindings.driver")
        (ordinal,) = self._done(self._driver.cuDeviceGet(index))
        (self._context,) = self._done(self._driver.cuDevicePrimaryCtxRetain(ordinal))

    def allocate(self, nbytes: int) -> Allocation:
        with self._current():
            (pointer,) = self._done(self._driver.cuMemAlloc(nbytes))
            tensor = self._tensor(int(pointer), nbytes, self._free)
            self._done(self._driver.cuMemsetD8(pointer, 0, nbytes))
            self._done(self._driver.cuCtxSynchronize())
            (handle,) = self._done(self._driver.cuIpcGetMemHandle(pointer))
        return Allocation(tensor, ctypes.string_at(int(handle.getPtr()), TOKEN_BYTES))

    def attach(self, nbytes: int, token: bytes, descriptor: int) -> Tensor:
        if len(token) != TOKEN_BYTES:
            raise RuntimeError(f"an IPC handle has {TOKEN_BYTES} bytes, got {len(token)}")
        handle = self._driver.CUipcMemHandle()
        ctypes.memmove(int(handle.getPtr()), token, TOKEN_BYTES)
        lazily = self._driver.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.value
        with self._current():
            (pointer,) = self._done(self._driver.cuIpcOpenMemHandle(handle, lazily))
        return self._tensor(int(pointer), nbytes, self._detach)

    def fill(self, page: Tensor, write: Callable[[Buffer], None]) -> None:
        try:
            staging = torch.empty(page.nbytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:
            # what cannot be pinned is copied more slowly
            staging = torch.empty(page.nbytes, dtype=torch.uint8)
        write(staging.numpy())
        self.copy(staging, page)

    def copy(self, source: Tensor, target: Tensor) -> None:
        with self.aside():
            target.copy_(source, non_blocking=True)
        self._stream.synchronize()

    def fence(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def aside(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def _tensor(self, pointer: int, nbytes: int, give_back: Callable[[int], None]) -> Tensor:
        return torch.as_tensor(_Owned(pointer, nbytes, give_back), device=self.device)

    def _free(self, pointer: int) -> None:
        with self._current():
            self._driver.cuMemFree(pointer)

    def _detach(self, pointer: int) -> None:
        with self._current():
            self._driver.cuIpcCloseMemHandle(pointer)

    @contextmanager
    def _current(self) -> Iterator[None]:
        self._done(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    def _done(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        result, *values = answer
        if result == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError("the CUDA device has no memory left")
        if result != self._driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver answers {result.name}")
        return tuple(values)
