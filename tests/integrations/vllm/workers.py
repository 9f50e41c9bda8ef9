"""Workers of ours in place of vLLM's, on a CPU.

They hold caches that vLLM's own code lays out, each for its rank's heads, follow the scheduler's output as vLLM's do,
and compute recognisable KV: K and V of a token depend on every token up to it. In each step they compare every byte of
what a request should have in its pages.
"""

import copy
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheTensor,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.outputs import KVConnectorOutput

from tests.integrations.content import content, prefixes
from tests.integrations.vllm.model import PAGE_TOKENS, Shape


@dataclass
class Held:
    """What the worker knows of one request."""

    shape: Shape
    tokens: list[int]
    pages: list[int]
    weights: int

    @cached_property
    def numbers(self) -> np.ndarray:
        return prefixes(self.tokens)

    @cached_property
    def kv(self) -> Tensor:
        """`[layers, tokens, kv_heads, 2 * head_dim]`: what its pages should hold."""
        return kv_of(self.shape, self.numbers, self.weights)

    def follow(self) -> int:
        """The token that the model draws, which is one of the request's from now on."""
        self.tokens.append(drawn(self.numbers))
        fresh = prefixes(self.tokens[-1:], int(self.numbers[-1]))
        self.kv = torch.cat((self.kv, kv_of(self.shape, fresh, self.weights)), 1)
        self.numbers = np.append(self.numbers, fresh)
        return self.tokens[-1]


class Workers:
    """One worker for each of `ranks`, which share the heads of `shape`; each has a connector made of `config`."""

    def __init__(self, shape: Shape, ranks: int, config: VllmConfig, kv_config: KVCacheConfig) -> None:
        self.shape, self.ranks = shape, ranks
        (group,) = kv_config.kv_cache_groups
        self.names = group.layer_names
        self.heads = group.kv_cache_spec.num_kv_heads
        self.connectors: list[Any] = []
        self.caches: list[dict[str, Tensor]] = []
        for rank in range(ranks):
            own = copy.copy(config)
            own.parallel_config = copy.copy(config.parallel_config)
            own.parallel_config.rank = rank
            self.connectors.append(KVConnectorFactory.create_connector(own, KVConnectorRole.WORKER, kv_config))
            layout = config.cache_config.kv_cache_layout
            self.caches.append(self._allocate(group.kv_cache_spec, kv_config.num_blocks, layout))
            self.connectors[-1].register_kv_caches(self.caches[-1])
        self.weights = 0
        self.held: dict[str, Held] = {}
        self.computed = 0
        """Tokens that were computed."""
        self.compared = 0
        """Tokens whose KV of every layer was compared."""

    def heads_of(self, rank: int) -> slice:
        first = rank * self.shape.kv_heads // self.ranks
        return slice(first, first + self.heads)

    def reload(self, weights: int) -> None:
        """Other weights compute other KV from now on; the tokens that are drawn stay the same."""
        self.weights = weights
        for held in self.held.values():
            held.weights = weights
            held.__dict__.pop("kv", None)

    def execute(self, output: Any) -> tuple[list[KVConnectorOutput], dict[str, list[int]]]:
        """One step: what each connector has to say, and the tokens that are drawn, by request."""
        self._follow(output)
        context = SimpleNamespace(no_compile_layers={})
        for connector in self.connectors:
            connector.handle_preemptions(output.kv_connector_metadata)
            connector.bind_connector_metadata(output.kv_connector_metadata)
        assert not output.has_sync_kv_loads
        sampled = self.forward(output)
        made = []
        for connector in self.connectors:
            connector.start_load_kv(context)
            connector.wait_for_save()
            results = connector.get_transfer_results(output.finished_req_ids)
            made.append(
                KVConnectorOutput(
                    finished_sending=results.finished_sending,
                    finished_recving=results.finished_recving,
                    failed_recving=results.failed_recving,
                    invalid_block_ids=connector.get_block_ids_with_load_errors(),
                    kv_connector_stats=connector.get_kv_connector_stats(),
                    kv_cache_events=connector.get_kv_connector_kv_cache_events(),
                    kv_connector_worker_meta=connector.build_connector_worker_meta(),
                )
            )
            connector.clear_connector_metadata()
        return made, sampled

    def _follow(self, output: Any) -> None:
        """Keeps pages by request, as vLLM's input batch does."""
        for name in output.finished_req_ids:
            self.held.pop(name, None)
        for new in output.scheduled_new_reqs:
            tokens = new.prefill_token_ids or new.prompt_token_ids
            self.held[new.req_id] = Held(self.shape, list(tokens), list(new.block_ids[0]), self.weights)
        cached = output.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            fresh, held = cached.new_block_ids[index], self.held[name]
            if name in cached.resumed_req_ids:
                held.pages = list(fresh[0])
            elif fresh is not None:
                held.pages += fresh[0]

    def forward(self, output: Any) -> dict[str, list[int]]:
        """Computes what the step says; the tokens that are drawn, by request."""
        cached = output.scheduled_cached_reqs
        computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        computed |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        names = list(output.num_scheduled_tokens)
        for layer, each in enumerate(self.names):
            for name in names:
                first, count = computed[name], output.num_scheduled_tokens[name]
                held = self.held[name]
                rows = held.kv[layer, first : first + count]
                places = torch.arange(first, first + count)
                pages = torch.tensor(held.pages)[places // PAGE_TOKENS]
                for rank, caches in enumerate(self.caches):
                    caches[each][pages, :, places % PAGE_TOKENS] = rows[:, self.heads_of(rank)]
            for connector, caches in zip(self.connectors, self.caches, strict=True):
                connector.save_kv_layer(each, caches[each], None)
        # not before: requests of one step share pages that one of them fills
        for name in names:
            self.compare(name, computed[name])
        sampled: dict[str, list[int]] = {}
        for name in names:
            held, count = self.held[name], output.num_scheduled_tokens[name]
            self.computed += count
            sampled[name] = []
            if computed[name] + count == len(held.tokens):
                sampled[name] = [held.follow()]
        return sampled

    def compare(self, name: str, computed: int) -> None:
        """Every byte of the KV of the first `computed` tokens of a request."""
        held = self.held[name]
        places = torch.arange(computed)
        pages = torch.tensor(held.pages, dtype=torch.long)[places // PAGE_TOKENS]
        for layer, each in enumerate(self.names):
            for rank, caches in enumerate(self.caches):
                found = caches[each][pages, :, places % PAGE_TOKENS]
                expected = held.kv[layer, :computed, self.heads_of(rank)]
                alike = torch.equal(found.view(torch.int16), expected.contiguous().view(torch.int16))
                assert alike, f"wrong bytes in {each} of rank {rank}"
        self.compared += computed

    def _allocate(self, spec: FullAttentionSpec, pages: int, name: str) -> dict[str, Tensor]:
        layout = KVCacheLayout[name]
        page, layers = spec.page_size_bytes, self.shape.layers
        strides = (page * pages, page) if layout.is_layer_compact else (page, page * layers)
        if name == "LHBNC":
            strides = (page * pages, page // self.heads)
        if name == "BHLNC":
            strides = (page // self.heads, page * layers)
        tensor = KVCacheTensor(page * pages * layers, self.names, *strides)
        raw = torch.zeros(tensor.size, dtype=torch.int8)
        views = create_kv_cache_views(raw, spec, pages, layout, tensor)
        return dict(zip(self.names, views, strict=True))


def kv_of(shape: Shape, numbers: np.ndarray, weights: int) -> Tensor:
    """`[layers, tokens, kv_heads, 2 * head_dim]`."""
    bits = content(shape.layers, shape.kv_heads * 2 * shape.head_dim, numbers ^ np.uint64(weights))
    return bits.view(shape.dtype).view(shape.layers, len(numbers), shape.kv_heads, 2 * shape.head_dim)


def drawn(numbers: np.ndarray) -> int:
    """The token that the stand-in model draws behind these."""
    return int(numbers[-1]) % 4000 + 1


def answer(tokens: list[int], new: int) -> list[int]:
    """What the stand-in model answers."""
    numbers, told = prefixes(tokens), list[int]()
    for _ in range(new):
        told.append(drawn(numbers))
        numbers = prefixes(told[-1:], int(numbers[-1]))
    return told
