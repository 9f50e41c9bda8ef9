"""vLLM's own scheduler with a connector, ours or another, and workers of ours in place of vLLM's, on a CPU.

Workers hold caches that vLLM's own code lays out, each for its rank's heads, follow the scheduler's output as vLLM's
do, and compute recognisable KV: K and V of a token depend on every token up to it. In each step they compare every byte
of what a request should have in its pages.
"""

import copy
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.config.kv_events import KVEventsConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.model_executor.models.registry import ModelRegistry
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from tests.integrations.content import content, prefixes

PAGE_TOKENS = 16
STAGING = "16MiB"
"""Of each worker; the default would take gigabytes for the engines of one test."""
ARCHITECTURE = "StandInForCausalLM"
OURS = {
    "kv_connector": "CacheStoreConnector",
    "kv_connector_module_path": "cachestore.integrations.vllm_connector",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}


@dataclass(frozen=True)
class Shape:
    """A model's KV."""

    layers: int = 3
    kv_heads: int = 2
    head_dim: int = 16
    dtype: torch.dtype = torch.bfloat16


class StandIn(torch.nn.Module):
    """What vLLM asks a model class before it loads one; ours is never loaded."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return input_ids

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return input_ids

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


def config_of(directory: Path, shape: Shape, pages: int, budget: int, transfer: dict[str, Any]) -> VllmConfig:
    """vLLM's configuration of a tiny Llama whose files are in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    # else vLLM imports its Llama in a process of its own, to ask it the same
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, StandIn)
    model = {
        "model_type": "llama",
        "architectures": [ARCHITECTURE],
        "vocab_size": 4096,
        "hidden_size": 2 * shape.kv_heads * shape.head_dim,
        "intermediate_size": 64,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": 2 * shape.kv_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 32768,
        "torch_dtype": str(shape.dtype).removeprefix("torch."),
    }
    (directory / "config.json").write_text(json.dumps(model))
    (directory / "model.safetensors").write_bytes(b"weights")
    cache = CacheConfig(block_size=PAGE_TOKENS, gpu_memory_utilization=0.5, enable_prefix_caching=True)
    cache.num_gpu_blocks = pages
    return VllmConfig(
        model_config=ModelConfig(
            model=str(directory), tokenizer=str(directory), skip_tokenizer_init=True, dtype=shape.dtype
        ),
        cache_config=cache,
        scheduler_config=SchedulerConfig(
            max_num_seqs=32,
            max_num_batched_tokens=budget,
            max_model_len=32768,
            is_encoder_decoder=False,
            disable_hybrid_kv_cache_manager=True,
            async_scheduling=False,
        ),
        device_config=DeviceConfig("cpu"),
        kv_transfer_config=KVTransferConfig(kv_buffer_device="cpu", **transfer),
    )


class Backend:
    """Stands for an attention backend, of which only the name and the way of writing count here."""

    def __init__(self, name: str, wrong: bool) -> None:
        self.name, self.wrong = name, wrong
        self.impl = self

    def get_attn_backend(self) -> "Backend":
        return self

    def get_name(self) -> str:
        return self.name

    def do_kv_cache_update(self, layer: Any, key: Tensor, value: Tensor, cache: Tensor, places: Tensor) -> None:
        # as vLLM's FlashAttentionImpl does
        keys, values = cache.transpose(1, 2).split(key.shape[-1], dim=-1)
        if self.wrong:
            keys, values = values, keys
        keys[places // PAGE_TOKENS, places % PAGE_TOKENS] = key
        values[places // PAGE_TOKENS, places % PAGE_TOKENS] = value


@dataclass
class Held:
    """What the worker knows of one request."""

    shape: Shape
    tokens: list[int]
    pages: list[int]

    @cached_property
    def numbers(self) -> np.ndarray:
        return prefixes(self.tokens)

    @cached_property
    def kv(self) -> Tensor:
        """`[layers, tokens, kv_heads, 2 * head_dim]`: what its pages should hold."""
        return kv_of(self.shape, self.numbers)

    def follow(self) -> int:
        """The token that the model draws, which is one of the request's from now on."""
        self.tokens.append(drawn(self.numbers))
        fresh = prefixes(self.tokens[-1:], int(self.numbers[-1]))
        self.kv, self.numbers = torch.cat((self.kv, kv_of(self.shape, fresh)), 1), np.append(self.numbers, fresh)
        return self.tokens[-1]


@dataclass
class Engine:
    """One vLLM engine with one worker for each of `ranks`, which share the heads. `events` are told where asked for."""

    directory: Path
    address: str
    shape: Shape = field(default_factory=Shape)
    pages: int = 64
    budget: int = 256
    layout: str = "LBNHC"
    backend: str = "FLASH_ATTN"
    caching: bool = True
    wrong: bool = False
    ranks: int = 1
    telling: bool = False
    transfer: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        extra = {"address": self.address, "staging": STAGING, **self.extra}
        transfer = {"kv_connector_extra_config": extra, **OURS, **self.transfer}
        self.config = config_of(self.directory, self.shape, self.pages, self.budget, transfer)
        # set afterwards, since vLLM looks for as many devices
        self.config.parallel_config.tensor_parallel_size = self.config.parallel_config.world_size = self.ranks
        if self.telling:
            self.config.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
        self.config.cache_config.kv_cache_layout = self.layout
        self.config.cache_config.enable_prefix_caching = self.caching
        names = [f"model.layers.{layer}.self_attn.attn" for layer in range(self.shape.layers)]
        self.names = names
        spec = FullAttentionSpec(
            block_size=PAGE_TOKENS,
            num_kv_heads=self.heads,
            head_size=self.shape.head_dim,
            dtype=self.shape.dtype,
        )
        self.kv_config = KVCacheConfig(self.pages, [], [KVCacheGroupSpec(names, spec)])
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(PAGE_TOKENS, sha256)
        self.scheduler = Scheduler(
            self.config,
            self.kv_config,
            StructuredOutputManager(self.config),
            PAGE_TOKENS,
            log_stats=True,
        )
        for name in names:
            self.config.compilation_config.static_forward_context[name] = Backend(self.backend, self.wrong)
        self.workers: list[Any] = []
        self.caches: list[dict[str, Tensor]] = []
        for rank in range(self.ranks):
            own = copy.copy(self.config)
            own.parallel_config = copy.copy(self.config.parallel_config)
            own.parallel_config.rank = rank
            self.workers.append(KVConnectorFactory.create_connector(own, KVConnectorRole.WORKER, self.kv_config))
            self.caches.append(self._allocate(spec))
            self.workers[-1].register_kv_caches(self.caches[-1])
        self.aggregator = KVOutputAggregator(self.ranks)
        self.events: list[Any] = []
        take, self.scheduler.connector.take_events = self.scheduler.connector.take_events, self._told
        self._take = take
        self.held: dict[str, Held] = {}
        self.computed = 0
        """Tokens that were computed."""
        self.compared = 0
        """Tokens whose KV of every layer was compared."""
        self.answers: dict[str, list[int]] = {}
        self.params: dict[str, Any] = {}
        self.stats: dict[str, int] = {}
        self.steps = 0

    @property
    def heads(self) -> int:
        """KV heads of a rank; where ranks outnumber heads, several have the same."""
        return max(1, self.shape.kv_heads // self.ranks)

    def heads_of(self, rank: int) -> slice:
        first = rank * self.shape.kv_heads // self.ranks
        return slice(first, first + self.heads)

    def _told(self) -> list[Any]:
        told = list(self._take())
        self.events += told
        return told

    def _allocate(self, spec: FullAttentionSpec) -> dict[str, Tensor]:
        layout = KVCacheLayout[self.layout]
        page, layers = spec.page_size_bytes, self.shape.layers
        strides = (page * self.pages, page) if layout.is_layer_compact else (page, page * layers)
        if self.layout == "LHBNC":
            strides = (page * self.pages, page // self.heads)
        if self.layout == "BHLNC":
            strides = (page // self.heads, page * layers)
        tensor = KVCacheTensor(page * self.pages * layers, self.names, *strides)
        raw = torch.zeros(tensor.size, dtype=torch.int8)
        views = create_kv_cache_views(raw, spec, self.pages, layout, tensor)
        return dict(zip(self.names, views, strict=True))

    def add(self, name: str, tokens: list[int], new: int = 4, **more: Any) -> None:
        sampling = SamplingParams(max_tokens=new, ignore_eos=True, temperature=0.0)
        params = more.pop("params", None)
        if params is not None:
            sampling.extra_args = {"kv_transfer_params": params}
        request = Request(name, tokens, sampling, None, block_hasher=self.hasher, **more)
        self.scheduler.add_request(request)

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def step(self) -> None:
        """One step of vLLM's engine."""
        self.steps += 1
        output = self.scheduler.schedule()
        outputs, sampled = self._execute(output)
        ids = list(output.num_scheduled_tokens)
        numbers = {name: index for index, name in enumerate(ids)}
        answers = [sampled[name] for name in ids]
        runner = self.aggregator.aggregate(
            [ModelRunnerOutput(ids, numbers, answers, kv_connector_output=each) for each in outputs]
        )
        for outputs in self.scheduler.update_from_output(output, runner).values():
            for each in outputs.outputs:
                self.answers.setdefault(each.request_id, []).extend(each.new_token_ids)
                if each.kv_transfer_params:
                    self.params[each.request_id] = each.kv_transfer_params
            stats = outputs.scheduler_stats
            if stats is not None and stats.kv_connector_stats:
                for figure, amount in stats.kv_connector_stats.items():
                    # other connectors also tell lists
                    if isinstance(amount, int):
                        self.stats[figure] = self.stats.get(figure, 0) + amount

    def run(self, within: float = 30.0) -> None:
        """Until nothing is left to do."""
        until = time.monotonic() + within
        while self.scheduler.has_requests():
            assert time.monotonic() < until, "requests are not scheduled"
            before = self.computed
            self.step()
            if self.computed == before:
                time.sleep(0.001)

    def settle(self, within: float = 10.0) -> None:
        """Until everything that was to be saved is."""
        until = time.monotonic() + within
        for worker in self.workers:
            staging = worker._transfer._saves
            while len(staging._free) < staging.memory.pages:
                assert time.monotonic() < until
                time.sleep(0.001)
        self.step()

    def close(self) -> None:
        for worker in self.workers:
            worker.shutdown()
        self.scheduler.shutdown()

    def _execute(self, output: Any) -> tuple[list[KVConnectorOutput], dict[str, list[int]]]:
        self._follow(output)
        context = SimpleNamespace(no_compile_layers={})
        for worker in self.workers:
            worker.handle_preemptions(output.kv_connector_metadata)
            worker.bind_connector_metadata(output.kv_connector_metadata)
        assert not output.has_sync_kv_loads
        sampled = self._forward(output)
        made = []
        for worker in self.workers:
            worker.start_load_kv(context)
            worker.wait_for_save()
            results = worker.get_transfer_results(output.finished_req_ids)
            made.append(
                KVConnectorOutput(
                    finished_sending=results.finished_sending,
                    finished_recving=results.finished_recving,
                    failed_recving=results.failed_recving,
                    invalid_block_ids=worker.get_block_ids_with_load_errors(),
                    kv_connector_stats=worker.get_kv_connector_stats(),
                    kv_cache_events=worker.get_kv_connector_kv_cache_events(),
                    kv_connector_worker_meta=worker.build_connector_worker_meta(),
                )
            )
            worker.clear_connector_metadata()
        return made, sampled

    def _follow(self, output: Any) -> None:
        """Keeps pages by request, as vLLM's input batch does."""
        for name in output.finished_req_ids:
            self.held.pop(name, None)
        for new in output.scheduled_new_reqs:
            tokens = new.prefill_token_ids or new.prompt_token_ids
            self.held[new.req_id] = Held(self.shape, list(tokens), list(new.block_ids[0]))
        cached = output.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            fresh, held = cached.new_block_ids[index], self.held[name]
            if name in cached.resumed_req_ids:
                held.pages = list(fresh[0])
            elif fresh is not None:
                held.pages += fresh[0]

    def _forward(self, output: Any) -> dict[str, list[int]]:
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
            for worker, caches in zip(self.workers, self.caches, strict=True):
                worker.save_kv_layer(each, caches[each], None)
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


def kv_of(shape: Shape, numbers: np.ndarray) -> Tensor:
    """`[layers, tokens, kv_heads, 2 * head_dim]`."""
    bits = content(shape.layers, shape.kv_heads * 2 * shape.head_dim, numbers)
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
