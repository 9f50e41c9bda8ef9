"""vLLM: what the scheduler's half of the connector tells the workers' half in each step, and what comes back."""

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata


@dataclass(frozen=True)
class Load:
    """Blocks for a request that waits for them; `pages` are vLLM's for these blocks, of which `skip` are not to be
    written, since vLLM holds them already. Blocks that are being written are waited for, up to `wait` seconds."""

    request: str
    fingerprint: bytes
    keys: tuple[bytes, ...]
    pages: tuple[int, ...]
    skip: int
    wait: float


@dataclass(frozen=True)
class Save:
    """Blocks that are full after this step, behind the one called `after`, and vLLM's pages for them. With `lease`, in
    seconds, nothing evicts them for so long."""

    fingerprint: bytes
    keys: tuple[bytes, ...]
    after: bytes | None
    pages: tuple[int, ...]
    lease: float


@dataclass
class Work(KVConnectorMetadata):
    """What is to be done in one step; `idle` says that it computes nothing."""

    idle: bool = False
    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)


@dataclass
class Done(KVConnectorWorkerMetadata):
    """Since the last step: the blocks that came of each load that ended, the keys that were saved."""

    loaded: dict[str, int] = field(default_factory=dict)
    saved: list[bytes] = field(default_factory=list)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Done":
        if not isinstance(other, Done):
            raise TypeError(f"workers of one engine must run one connector, got {type(other).__name__}")
        both = self.loaded.keys() & other.loaded.keys()
        loaded = {**self.loaded, **other.loaded, **{name: min(self.loaded[name], other.loaded[name]) for name in both}}
        return Done(loaded, [*self.saved, *other.saved])
