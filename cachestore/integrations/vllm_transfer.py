"""vLLM: the workers' half of the connector. It moves blocks between vLLM's pages and the store, in threads of its own;
of a tensor-parallel engine each rank its heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cachestore.block import BlockSpec
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.staging import Staging
from cachestore.integrations.vllm_loading import Loads
from cachestore.integrations.vllm_saving import Saves
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_shards import Shard
from cachestore.integrations.vllm_work import Done, Work
from cachestore.metrics import Counters
from cachestore.store.base import Store


@dataclass(eq=False)
class Transfer:
    """`spec` is that of whole blocks, `shard` what this rank has of them; `names` are vLLM's layers by slot."""

    spec: BlockSpec
    shard: Shard
    store: Store
    pages: EnginePages
    names: Sequence[str]
    settings: ConnectorSettings
    counters: Counters
    loads: Loads = field(init=False)
    saves: Saves = field(init=False)
    _idle: bool = False
    _done: Done = field(default_factory=Done)

    def __post_init__(self) -> None:
        self._slots = {name: slot for slot, name in enumerate(self.names)}
        common = self.shard, self.store, self.pages, self.settings, self.counters
        self.loads = Loads(*common)
        # apart, so that saves that wait for the store never keep a load from its memory
        staging = Staging(self.shard.spec, self.settings.staging, self.loads.staging)
        self.saves = Saves(self.spec, *common, staging)

    def begin(self, work: Work) -> None:
        """Begins the loads of a step."""
        self._idle = work.idle
        self.loads.begin(work.loads)

    def reserve(self, work: Work) -> None:
        """Begins the saves of a step, as far as there is staging for them."""
        self.saves.reserve(work.saves)

    def gather(self, name: str) -> None:
        """The model has computed this layer: what is to be saved of it is copied out of vLLM's pages."""
        slot = self._slots.get(name)
        if slot is not None:
            self.saves.gather(slot)

    def gather_rest(self) -> None:
        """The same for all layers that were not named; after this the pages are vLLM's again."""
        self.saves.gather_rest()

    def ended(self) -> set[str]:
        """Requests whose loads have ended, well or not; `failed_pages` tells of the same moment.

        In a step that computes nothing there is nothing to keep from its turn: a while is waited for them. A step would
        take the interpreter lock from the threads that load, to find out no more.
        """
        if self._idle:
            self.loads.wait(self.settings.idle_wait)
        ended = self.loads.ended()
        self._done = Done(ended, self.saves.saved())
        return set(ended)

    def failed_pages(self) -> set[int]:
        """vLLM's pages whose blocks did not come."""
        return self.loads.failed()

    def done(self) -> Done | None:
        """What `ended` told of, for the scheduler."""
        done, self._done = self._done, Done()
        return done if done.loaded or done.saved else None

    def close(self) -> None:
        """Waits for what is on its way; a save whose step broke off is given up."""
        self.loads.close()
        self.saves.close()
