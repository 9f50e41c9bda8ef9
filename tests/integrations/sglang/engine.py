"""SGLang's own cache controller with our backend, on a CPU.

The host pool, the pool group, the controller with its threads and the loading of backends are SGLang's. Of ours are the
GPU's memory, which nothing is copied from or to, and the part of its tree that drives the controller's queues: `store`
and `load` do what `UnifiedRadixCache` does with them, call by call. Page hashes are chained as SGLang's are, in Python:
SGLang compiles its own at the first use. KV is recognisable: the bytes of a page follow from its hash and its rank, and
each byte that was loaded is compared.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.base_prefix_cache import CacheRequestHandle
from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo, MLABufferInfo
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.mem_cache.hybrid_cache import hybrid_cache_controller
from sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller import HybridCacheController
from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool
from sglang.srt.mem_cache.pool_host import HostPoolGroup, PoolEntry
from sglang.srt.mem_cache.pool_host.base import HostKVCache, host_memory_budget_scope
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.runtime_context import get_context, get_parallel

PAGE_TOKENS = 4
MODEL = "some/model"
OURS = {
    "backend_name": "cachestore",
    "module_path": "cachestore.integrations.sglang",
    "class_name": "CacheStoreBackend",
    "revision": "one",
    # of a busy machine nothing is to be learnt here
    "timeout": "30s",
    "lookup_timeout": "30s",
}


@dataclass(frozen=True)
class Shape:
    """A model's KV on one rank; `latent` is the width of a token's where it has no heads, else 0."""

    layers: int = 3
    kv_heads: int = 2
    head_dim: int = 16
    latent: int = 0
    dtype: torch.dtype = torch.bfloat16


class Device:
    """The GPU's memory, as far as the controller asks of it."""

    device = "cpu"

    def __init__(self, layers: int) -> None:
        self.layer_num = layers

    def get_kvcache(self) -> "Device":
        return self

    def register_layer_transfer_counter(self, counter: Any) -> None:
        self.counter = counter


class LatentDevice(Device, MLATokenToKVPool):
    """The same, of a model with latent attention, which the controller tells by its class."""


def host_pool(shape: Shape, layout: str, pages: int, page_tokens: int = PAGE_TOKENS) -> HostKVCache:
    """SGLang's host memory for a model of this shape."""
    heads, width = (1, shape.latent) if shape.latent else (shape.kv_heads, shape.head_dim)
    rows = tuple(torch.zeros((page_tokens, heads, width), dtype=shape.dtype) for _ in range(shape.layers))
    pointers = torch.tensor([row.data_ptr() for row in rows], dtype=torch.uint64)
    here: dict[str, Any] = {"page_size": page_tokens, "dtype": shape.dtype, "device": torch.device("cpu")}
    sizes: dict[str, Any] = {
        "pin_memory": False,
        "device_capacity_tokens": page_tokens,
        "start_layer": 0,
        "end_layer": shape.layers - 1,
        "host_token_capacity": pages * page_tokens,
    }
    with host_memory_budget_scope(1 << 40):
        if shape.latent:
            rope = width // 4
            info = MLABufferInfo(
                buffers=rows,
                data_ptrs=pointers,
                layer_indices=tuple(range(shape.layers)),
                device_layer_num=shape.layers,
                kv_lora_rank=width - rope,
                qk_rope_head_dim=rope,
                kv_cache_dim=width,
                **here,
            )
            return MLATokenToKVPoolHost(info, 1.0, 0, page_tokens, layout, target_layer_num=shape.layers, **sizes)
        buffers = KVBuffers(k=rows, v=rows, k_data_ptrs=pointers, v_data_ptrs=pointers, layout=KVBufferLayout.NHD)
        mha = MHABufferInfo(buffers=buffers, head_num=heads, head_dim=width, v_head_dim=width, **here)
        return MHATokenToKVPoolHost(mha, 1.0, 0, page_tokens, layout, **sizes)


class Engine:
    """One rank of an engine; `server` are arguments of SGLang's, `settings` ours."""

    def __init__(
        self,
        address: str,
        *,
        shape: Shape | None = None,
        layout: str = "page_first",
        zero_copy: bool = True,
        pages: int = 64,
        page_tokens: int = PAGE_TOKENS,
        rank: tuple[int, int] = (0, 1),
        model: str = MODEL,
        server: dict[str, Any] | None = None,
        **settings: object,
    ) -> None:
        self.shape, self.rank, self.page_tokens = shape or Shape(), rank, page_tokens
        self.pool = host_pool(self.shape, layout, pages, page_tokens)
        self._names = itertools.count()
        device = (LatentDevice if self.shape.latent else Device)(self.shape.layers)
        group = HostPoolGroup([PoolEntry(PoolName.KV, self.pool, device, lambda layer: layer, True)])
        self._extra = {**OURS, "address": address, "interface_v1": int(zero_copy), **settings}
        with self._published(model, **(server or {})):
            parsed, threshold, *_ = HybridCacheController.parse_storage_backend_extra_config(json.dumps(self._extra))
            self.controller = HybridCacheController(
                device,
                group,
                page_tokens,
                None,
                None,
                storage_backend="dynamic",
                prefetch_threshold=threshold,
                model_name=model,
                storage_backend_extra_config=parsed,
                enable_storage_metrics=True,
            )

    @contextmanager
    def _published(self, model: str, **server: Any) -> Iterator[None]:
        """SGLang's configuration, as it is while a backend is attached."""
        rank, size = self.rank
        sizes = dict.fromkeys(("tp_size", "attn_tp_size", "moe_tp_size"), size)
        ranks = {"tp_rank": rank, "attn_tp_rank": rank, "pp_rank": 0, "attn_dcp_size": 1, "attn_dcp_rank": 0}
        with get_context().override_server_args(model_path=model, **server), get_parallel().override(**sizes, **ranks):
            yield

    def attach_again(self, model: str, server: dict[str, Any] | None = None, **settings: object) -> None:
        """Detaches the backend and attaches another one, as SGLang does when it is asked to while it runs."""
        self.controller.detach_storage_backend()
        extra = json.dumps({**self._extra, **settings})
        with self._published(model, **(server or {})):
            parsed, threshold, *_ = HybridCacheController.parse_storage_backend_extra_config(extra)
            self.controller.attach_storage_backend("dynamic", threshold, model, parsed)

    @property
    def backend(self) -> Any:
        return self.controller.storage_backend

    def keys(self, tokens: Sequence[int]) -> list[str]:
        """The hashes of the full pages of `tokens`."""
        return page_hashes(tokens, page_size=self.page_tokens)

    def content(self, key: str) -> bytes:
        """The bytes of the page `key` in this rank's memory."""
        # ranks of latent attention all hold the same
        seed = sha256(f"{key} {0 if self.shape.latent else self.rank}".encode()).digest()
        nbytes = self.pool.get_dummy_flat_data_page().nbytes
        return np.random.Generator(np.random.Philox(key=np.frombuffer(seed, np.uint64)[:2])).bytes(nbytes)

    def store(self, tokens: Sequence[int], timeout: float = 60.0) -> int:
        """Has these tokens' pages in host memory and writes them through; how many of them were."""
        keys = self.keys(tokens)
        indices = self._taken(len(keys))
        for page, key in enumerate(keys):
            content = torch.frombuffer(bytearray(self.content(key)), dtype=self.shape.dtype)
            self.pool.set_from_flat_data_page(int(indices[page * self.page_tokens]), content)
        number = self.controller.write_storage(indices, list(tokens), hash_value=keys)
        operation = self.controller.ack_backup_queue.get(timeout=timeout)
        assert operation.id == number
        self.pool.free(indices)
        return int(operation.completed_tokens) // self.page_tokens

    def load(self, tokens: Sequence[int], between: Callable[[], object] = lambda: None, timeout: float = 60.0) -> int:
        """Prefetches these tokens' pages into host memory; how many came. Every byte of them is compared.

        `between` is called when SGLang knows which pages there are, before it reads them.
        """
        handle = CacheRequestHandle(str(next(self._names)), 0)
        operation = self.controller.prefetch(handle, list(tokens))
        assert self.controller.prefetch_hit_queue.get(timeout=timeout) is operation
        if not operation.hash_value:
            return 0
        indices = self._taken(len(operation.hash_value))
        for page in indices.split(self.page_tokens):
            # what lay there before is some other request's
            blank = torch.zeros_like(self.pool.get_dummy_flat_data_page())
            self.pool.set_from_flat_data_page(int(page[0]), blank)
        between()
        operation.host_indices = indices
        self.controller.prefetch_buffer.put(operation)
        came, until = 0, time.monotonic() + timeout
        while True:
            ack = self.controller.ack_prefetch_queue.get(timeout=max(0.0, until - time.monotonic()))
            assert ack.operation is operation
            if ack.completed_req:
                break
            if ack.completed_tokens is not None:
                came = int(ack.completed_tokens) // self.page_tokens
        for page, key in enumerate(operation.hash_value[:came]):
            found = self.pool.get_data_page(int(indices[page * self.page_tokens]), flat=True)
            assert found.view(torch.uint8).numpy().tobytes() == self.content(key), "wrong bytes"
        self.pool.free(indices)
        return came

    def close(self) -> None:
        self.controller.detach_storage_backend()

    def _taken(self, pages: int) -> torch.Tensor:
        indices = self.pool.alloc(pages * self.page_tokens)
        assert indices is not None, "the host pool is full"
        return indices


def page_hashes(tokens: Any, prior: str | None = None, page_size: int = PAGE_TOKENS) -> list[str]:
    """A SHA-256 for each full page, over the one before and its tokens."""
    found: list[str] = []
    whole = list(tokens)
    for start in range(0, len(whole) // page_size * page_size, page_size):
        before = bytes.fromhex(found[-1] if found else prior or "")
        found.append(sha256(before + np.array(whole[start : start + page_size], "<u4").tobytes()).hexdigest())
    return found


hybrid_cache_controller.get_storage_hash_str = page_hashes
