"""vLLM: the KV events of blocks that came into the store, for routers that follow `--kv-events-config`.

They tell vLLM's own hashes and tokens, as its events of other media do. What leaves the store is not told by an engine,
which may end long before: the store's own events say that (`Watch`).
"""

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_events import MEDIUM_STORAGE, BlockStored
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

MOST_WAITING = 1 << 16
"""Blocks on their way that are remembered: beyond, those begun longest ago never came."""


@dataclass(eq=False)
class KVEvents:
    """Of blocks of `per_block` of vLLM's pages of `page_tokens` tokens."""

    page_tokens: int
    per_block: int
    _waiting: dict[bytes, BlockStored] = field(default_factory=dict)
    _arrived: list[BlockStored] = field(default_factory=list)

    def begun(self, request: Any, first: int, keys: tuple[bytes, ...]) -> None:
        """The blocks of a request from number `first` on, called `keys`, are on their way to the store."""
        hashes, size = request.block_hashes, self.per_block * self.page_tokens
        for block, key in enumerate(keys, first):
            page = block * self.per_block
            own = hashes[page : page + self.per_block]
            # without a cache of its own vLLM hashes nothing
            if len(own) < self.per_block:
                return
            adapter = request.lora_request
            self._waiting[key] = BlockStored(
                block_hashes=[maybe_convert_block_hash(each) for each in own],
                parent_block_hash=maybe_convert_block_hash(hashes[page - 1]) if page else None,
                token_ids=list(request.all_token_ids[block * size : (block + 1) * size]),
                block_size=self.page_tokens,
                lora_id=adapter.lora_int_id if adapter else None,
                medium=MEDIUM_STORAGE,
                lora_name=adapter.lora_name if adapter else None,
                group_idx=0,
            )
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def arrived(self, keys: list[bytes]) -> None:
        """The store has these blocks."""
        found = (self._waiting.pop(key, None) for key in keys)
        self._arrived += [event for event in found if event is not None]

    def taken(self) -> list[BlockStored]:
        """The events since the last time."""
        arrived, self._arrived = self._arrived, []
        return arrived
