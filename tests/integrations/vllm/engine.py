"""vLLM's own scheduler with a connector, ours or another, and workers of ours in place of vLLM's, on a CPU."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm.config.kv_events import KVEventsConfig
from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from tests.integrations.vllm.model import PAGE_TOKENS, Backend, Shape, config_of
from tests.integrations.vllm.workers import Workers, answer

STAGING = "16MiB"
"""Of each worker; the default would take gigabytes for the engines of one test."""
OURS = {
    "kv_connector": "CacheStoreConnector",
    "kv_connector_module_path": "cachestore.integrations.vllm_connector",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}


@dataclass
class Engine:
    """One vLLM engine with one worker for each of `ranks`, which share the heads. `events` are told where asked for.

    `model` are settings of the model, `work` is what its workers do.
    """

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
    model: dict[str, Any] = field(default_factory=dict)
    work: type[Workers] = Workers

    def __post_init__(self) -> None:
        extra = {"address": self.address, "staging": STAGING, **self.extra}
        transfer = {"kv_connector_extra_config": extra, **OURS, **self.transfer}
        self.config = config_of(self.directory, self.shape, self.pages, self.budget, transfer, **self.model)
        # set afterwards, since vLLM looks for as many devices
        self.config.parallel_config.tensor_parallel_size = self.config.parallel_config.world_size = self.ranks
        if self.telling:
            self.config.kv_events_config = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
        self.config.cache_config.kv_cache_layout = self.layout
        self.config.cache_config.enable_prefix_caching = self.caching
        names = [f"model.layers.{layer}.self_attn.attn" for layer in range(self.shape.layers)]
        spec = FullAttentionSpec(
            block_size=PAGE_TOKENS,
            # where ranks outnumber heads, several have the same
            num_kv_heads=max(1, self.shape.kv_heads // self.ranks),
            head_size=self.shape.head_dim,
            dtype=self.shape.dtype,
        )
        kv_config = KVCacheConfig(self.pages, [], [KVCacheGroupSpec(names, spec)])
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(PAGE_TOKENS, sha256)
        self.scheduler = Scheduler(
            self.config,
            kv_config,
            StructuredOutputManager(self.config),
            PAGE_TOKENS,
            log_stats=True,
        )
        for name in names:
            self.config.compilation_config.static_forward_context[name] = Backend(self.backend, self.wrong)
        self.workers = self.work(self.shape, self.ranks, self.config, kv_config)
        self.aggregator = KVOutputAggregator(self.ranks)
        self.events: list[Any] = []
        take, self.scheduler.connector.take_events = self.scheduler.connector.take_events, self._told
        self._take = take
        self.answers: dict[str, list[int]] = {}
        self.params: dict[str, Any] = {}
        self.stats: dict[str, int] = {}
        self.steps = 0

    @property
    def computed(self) -> int:
        """Tokens that were computed."""
        return self.workers.computed

    def _told(self) -> list[Any]:
        told = list(self._take())
        self.events += told
        return told

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
        outputs, sampled = self.workers.execute(output)
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
        for connector in self.workers.connectors:
            staging = connector._transfer.saves.staging
            while len(staging._free) < staging.memory.pages:
                assert time.monotonic() < until
                time.sleep(0.001)
        self.step()

    def close(self) -> None:
        for connector in self.workers.connectors:
            connector.shutdown()
        self.scheduler.shutdown()


Make = Callable[..., Engine]


def prompt(length: int, seed: int = 1) -> list[int]:
    choose = random.Random(seed)
    return [choose.randrange(1, 4000) for _ in range(length)]


def asked(engine: Engine, name: str, tokens: list[int], new: int = 4, **more: Any) -> int:
    """How many tokens were computed for a request that is answered, as it would be without a store."""
    before = engine.computed
    engine.add(name, tokens, new, **more)
    engine.run()
    assert engine.answers[name] == answer(tokens, new)
    return engine.computed - before
