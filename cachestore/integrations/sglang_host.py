"""SGLang's host memory for KV: whether its pages are what we take them for, by name and by proof, and where they lie.

A page is what SGLang's `get_data_page` gives, in one piece: its storage interfaces all move these bytes. With a
page-first layout they lie in one run of memory or two, K and V, and are moved from and to there.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.errors import ConfigError, Mismatch
from cachestore.store.spread import Spread

LAYOUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "MHATokenToKVPoolHost": ("layer_first", "page_first", "page_first_direct", "page_head"),
        "MLATokenToKVPoolHost": ("layer_first", "page_first", "page_first_direct"),
    }
)
"""The layouts that were tried (`--hicache-mem-layout`), by the class of the host pool."""
SCATTERED = "layer_first"
"""The layout whose pages lie in as many runs as the model has layers: these are copied by SGLang."""
FACTS = (
    "layout",
    "page_size",
    "start_layer",
    "end_layer",
    "layer_num",
    "target_layer_num",
    "head_num",
    "head_dim",
    "v_head_dim",
    "head_group_num",
    "kv_cache_dim",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "dsa_kv_cache_store_fp8",
)
"""What of a host pool decides where which byte of a page is."""


class HostPages:
    """The pages of SGLang's host pool `pool`. ConfigError names what is not known here."""

    def __init__(self, pool: Any) -> None:
        kind, layout = type(pool).__name__, pool.layout
        if layout not in LAYOUTS.get(kind, ()):
            known = " or ".join(dict.fromkeys(name for names in LAYOUTS.values() for name in names))
            raise ConfigError(
                f"SGLang keeps this model in a {kind} of layout {layout!r}, whose pages are not known here; known are "
                f"{' and '.join(LAYOUTS)} with --hicache-mem-layout {known}"
            )
        sharded = pool.dcp_size != 1 or getattr(pool, "_layer_shard_enabled", False) or pool.kv_buffer is None
        if sharded or pool.storage_format_tag is not None or pool.stores_page_envelope:
            raise ConfigError(
                f"SGLang keeps the pages of this {kind} in another way than by its layout ({layout}), as it does for "
                "decode context parallelism and layers spread over ranks; that is not known here"
            )
        self._pool = pool

    @property
    def facts(self) -> dict[str, object]:
        """All that decides where which byte of a page is."""
        found = {name: getattr(self._pool, name, None) for name in FACTS}
        # of the GPU's memory, whose rows are copied as they are
        device = [str(info.buffers.layout) for info in getattr(self._pool, "_buffer_infos", ())]
        return {"pool": type(self._pool).__name__, "dtype": self.dtype, "runs": self.runs, "device": device, **found}

    @property
    def dtype(self) -> str:
        """The type in which SGLang keeps KV; what it means, of numbers of 8 bits, only the engine's settings say."""
        return str(self._pool.dtype).removeprefix("torch.")

    @property
    def in_place(self) -> bool:
        """Whether pages can be read and written where they lie."""
        return bool(self._pool.layout != SCATTERED)

    @cached_property
    def runs(self) -> tuple[int, ...]:
        """The bytes of each run of a page, in the order of a page's bytes; one where SGLang copies pages."""
        flat = self._pool.get_dummy_flat_data_page()
        if not self.in_place:
            return (int(flat.nbytes),)
        _, sizes = self._pool.get_page_buffer_meta(torch.arange(self._pool.page_size))
        if sum(sizes) != flat.nbytes:
            raise ConfigError(f"SGLang says that a page has {flat.nbytes} bytes, and that its runs have {sizes}")
        return tuple(map(int, sizes))

    @cached_property
    def _memory(self) -> Buffer:
        """All of the pool."""
        memory: Buffer = self._pool.kv_buffer.view(-1).view(torch.uint8).numpy()
        return memory

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where the runs of each page of the pool start in its memory, as far as SGLang was asked; else -1."""
        return np.full((self._pool.size // self._pool.page_size, len(self.runs)), -1)

    def pages(self, indices: torch.Tensor) -> Spread:
        """The runs of the pages that hold these tokens, in place. Mismatch for what lies outside the pool."""
        size = self._pool.page_size
        tokens = indices.numpy()[::size]
        numbers, within = np.divmod(tokens, size)
        if tokens.size and (within.any() or tokens.min() < 0 or numbers.max() >= len(self._starts)):
            raise Mismatch(f"SGLang names tokens that are no whole pages of {size} of its host pool")
        starts = self._starts[numbers]
        if tokens.size and starts.min() < 0:
            # they never move: asked once, this is a look into an array for every further batch
            unknown = np.unique(numbers[starts[:, 0] < 0])
            self._starts[unknown] = self._asked(torch.from_numpy(unknown * size))
            starts = self._starts[numbers]
        return Spread(self._memory, starts, self.runs)

    def _asked(self, tokens: torch.Tensor) -> NDArray[np.int64]:
        """Where SGLang says that the runs of pages start whose first tokens these are."""
        pointers, sizes = self._pool.get_page_buffer_meta(tokens.repeat_interleave(self._pool.page_size))
        if tuple(sizes) != self.runs * len(tokens):
            raise Mismatch(f"SGLang's pages are runs of {sorted(set(sizes))} bytes, and were of {self.runs}")
        base: int = self._pool.kv_buffer.data_ptr()
        starts: NDArray[np.int64] = np.array(pointers, dtype=np.int64).reshape(len(tokens), -1) - base
        if starts.min() < 0 or (starts > self._memory.nbytes - np.array(self.runs)).any():
            raise Mismatch("SGLang names pages that lie outside its host pool")
        return starts

    def prove(self) -> None:
        """Writes known bytes into a free page's runs and reads it as SGLang does, and the other way: Mismatch if not.

        Two orders of a page have the same size, and a mix-up between them gives wrong KV without any error.
        """
        pool = self._pool
        if not self.in_place:
            return
        taken = pool.alloc(pool.page_size)
        if taken is None:
            raise ConfigError("SGLang's host pool has no free page to prove its layout on; attach before it is full")
        try:
            numbers = np.random.default_rng(1).integers(0, 256, (2, sum(self.runs)), dtype=np.uint8)
            (page,) = self.pages(taken)
            for run, part in zip(page, np.split(numbers[0], np.cumsum(self.runs)[:-1]), strict=True):
                run[:] = part
            # a copy: of some layouts SGLang gives the page itself
            read = as_bytes(pool.get_data_page(int(taken[0]), flat=True)).copy()
            pool.set_from_flat_data_page(int(taken[0]), torch.from_numpy(numbers[1]).view(pool.dtype))
            if not np.array_equal(read, numbers[0]) or not np.array_equal(np.concatenate(page), numbers[1]):
                raise Mismatch(
                    f"known bytes in a page of layout {pool.layout!r} are read by SGLang as something else, so its "
                    "layout is not the one it names; the store is not used"
                )
        finally:
            pool.free(taken)


def as_bytes(page: torch.Tensor) -> Buffer:
    """The bytes of a page in one piece, in place."""
    found: Buffer = page.view(torch.uint8).numpy()
    return found


def pieces(pages: Sequence[torch.Tensor]) -> list[tuple[Buffer]]:
    """Pages in one piece each, as pages of runs."""
    return [(as_bytes(page),) for page in pages]
