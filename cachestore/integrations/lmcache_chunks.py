"""LMCache: its chunks in the store. Nothing here raises what a store may raise: it is a miss, counted and logged."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch

from cachestore.block import Buffer, OpaqueSpec
from cachestore.errors import CacheStoreError
from cachestore.hashing import KEY_BYTES, Chain, opaque_chain
from cachestore.integrations.lmcache_settings import LMCacheSettings
from cachestore.integrations.named import model_name
from cachestore.integrations.opaque import OpaquePages, layout_text
from cachestore.metrics import Counters, Figure
from cachestore.store.base import Store

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def chunk_bytes(shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype]) -> int:
    """The bytes of a chunk: tensors of these shapes one behind the other."""
    return sum(prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))


def chunk_spec(
    settings: LMCacheSettings,
    model: str,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    algorithm: str,
    **facts: object,
) -> OpaqueSpec:
    """All that decides what the bytes of a chunk mean, but for the rank that has it: that is in LMCache's keys."""
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    layout: dict[str, object] = {**facts, "shapes": [list(shape) for shape in shapes], "dtypes": names}
    return OpaqueSpec(
        engine="lmcache",
        engine_version=version("lmcache"),
        model=model_name(model),
        revision=settings.revision,
        dtype=names[0],
        layout=layout_text(layout),
        rank=0,
        world_size=1,
        hash_algorithm=algorithm,
    )


def flat(memory: Any) -> Buffer:
    """The bytes of one of LMCache's memory objects, in place."""
    return np.frombuffer(memory.byte_array, dtype=np.uint8)


@dataclass(eq=False)
class Chunks:
    """The chunks of one spec, each of `nbytes` bytes; safe for use by several threads.

    A chunk of another size than `nbytes` is neither put nor read.
    """

    store: Store
    spec: OpaqueSpec
    nbytes: int
    settings: LMCacheSettings
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._asked = OpaquePages(self.store, self.spec, self.nbytes, self.settings.lookup_timeout)
        self._moved = OpaquePages(self.store, self.spec, self.nbytes, self.settings.timeout)

    def leading(self, keys: Sequence[bytes]) -> int:
        """How many chunks, from the first on, can be loaded."""
        return self._try("lookup", lambda: self._asked.leading(keys), 0)

    def load(self, keys: Sequence[bytes], into: Sequence[Buffer]) -> int:
        """Loads chunks in place; how many came, from the first on."""
        came = self._try("load", lambda: self._moved.read(keys, into), 0)
        self.counters.add("loaded_chunks", came)
        self.counters.add("missed_chunks", len(keys) - came)
        return came

    def save(self, keys: Sequence[bytes], chunks: Sequence[Buffer]) -> list[bool]:
        """Puts chunks; for each whether the store has it now."""
        whole = [index for index, chunk in enumerate(chunks) if chunk.nbytes == self.nbytes]
        held = self._try(
            "save",
            lambda: self._moved.put([keys[index] for index in whole], [chunks[index] for index in whole]),
            [False] * len(whole),
        )
        saved = [False] * len(keys)
        for index, kept in zip(whole, held, strict=True):
            saved[index] = kept
        self.counters.add("saved_chunks", sum(saved))
        self.counters.add("dropped_chunks", len(saved) - sum(saved))
        return saved

    def delete(self, keys: Sequence[bytes]) -> int:
        """Removes chunks from the store; how many there were."""
        return self._try(
            "delete", lambda: self.store.delete(opaque_chain(self.spec, keys), timeout=self.settings.timeout), 0
        )

    def _try(self, call: str, answer: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return answer()
        except CacheStoreError as error:
            self.counters.add("failures", call=call)
            _log.warning("LMCache's %s: the store could not go on: %s", call, error)
            return otherwise


def answers(store: Store, timeout: float) -> bool:
    """Whether the store answers at all, within `timeout` seconds."""
    try:
        store.lookup(Chain(bytes(KEY_BYTES), (bytes(KEY_BYTES),)), timeout=timeout)
    except CacheStoreError:
        return False
    return True


def counted(counters: Counters) -> dict[str, int]:
    """What was counted, as LMCache reports it."""
    return {_name(figure): figure.value for figure in counters.figures()}


def _name(figure: Figure) -> str:
    return ".".join([figure.name, *(value for _, value in figure.labels)])
