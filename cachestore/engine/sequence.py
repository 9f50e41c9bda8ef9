"""One prompt's KV: blocks in, prefill, decode, blocks out.

Logits of a prompt's last token always come from a computation whose shape does not depend on what was reused. A prompt
that ends with a full block has that block computed or loaded whole, and then its last token alone is queried again;
otherwise the rest behind the last chunk boundary is computed as one chunk. So with equal chunk boundaries a warm start
equals a cold one bit for bit.
"""

from collections.abc import Callable
from collections.abc import Sequence as Tokens

import torch
from torch import Tensor

from cachestore.block import Block, BlockSpec, Buffer, Half
from cachestore.engine.buffer import SlotBuffer
from cachestore.engine.planes import gather, scatter
from cachestore.errors import InvalidArgument, Mismatch, TooLarge

Forward = Callable[[Tensor], Tensor]
"""Computes token ids `[tokens]` behind what the buffers hold, appends their KV and gives the last one's logits."""

OnBlocks = Callable[[int, int], None]
"""Told during prefill that the blocks `first` up to, not including, `end` are complete."""


class Sequence:
    """The KV of one sequence. `position` tokens are in it; not safe for use by several threads at once."""

    def __init__(
        self,
        spec: BlockSpec,
        buffers: list[SlotBuffer],
        forward: Forward,
        *,
        chunk_tokens: int,
        vocabulary: int,
        max_tokens: int,
    ) -> None:
        self.spec = spec
        self._buffers = buffers
        self._forward = forward
        self._chunk_tokens = chunk_tokens
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._full = spec.planes()

    @property
    def position(self) -> int:
        """How many tokens have their KV here."""
        return self._buffers[0].length

    def _crop(self, length: int) -> None:
        for buffer in self._buffers:
            buffer.crop(length)

    def _heads(self, slot: int, group: int) -> slice:
        size = self.spec.slots[slot].kv_heads // self.spec.head_groups
        return slice(group * size, (group + 1) * size)

    def _run(self, ids: Tensor) -> Tensor:
        start = self.position
        try:
            return self._forward(ids)
        except BaseException:
            self._crop(start)
            raise

    def load(self, block: Block) -> None:
        """Appends one verified block, full or the short last one.

        InvalidArgument behind a short block, Mismatch if the block's planes are not all of this spec's.
        """
        start = self.position
        if start % self.spec.block_tokens:
            raise InvalidArgument(f"no block can follow at position {start}: the block before it is not full")
        end = start + block.token_count
        if end > self._max_tokens:
            raise TooLarge(f"{end} tokens are more than the model's {self._max_tokens}")
        wanted = self._full if not block.short else self.spec.planes(block.token_count)
        if block.planes != wanted:
            raise Mismatch("the block's planes are not the planes of this engine's spec")
        for buffer in self._buffers:
            buffer.extend(block.token_count)
        for plane, data in zip(block.planes, block.data, strict=True):
            rows = self._buffers[plane.slot].rows(plane.half, self._heads(plane.slot, plane.group), slice(start, end))
            scatter(data, rows)

    def prefill(
        self, tokens: Tokens[int], *, on_blocks: OnBlocks | None = None, check: Callable[[], None] | None = None
    ) -> Tensor:
        """Computes what of the prompt `tokens` is not here yet; the last token's logits, `[vocabulary]` float32.

        `check` is called before every chunk and may raise to give up: a deadline's check, or an abort. What was
        computed before stays.
        """
        ids = self._checked(tokens)
        size, end = self.spec.block_tokens, len(ids)
        if end < self.position:
            raise InvalidArgument(f"the prompt has {end} tokens, but {self.position} are loaded")
        logits = None
        while self.position < end:
            if check is not None:
                check()
            start = self.position
            stop = min(end, (start // self._chunk_tokens + 1) * self._chunk_tokens)
            logits = self._run(ids[start:stop])
            if on_blocks is not None and stop // size > start // size:
                on_blocks(start // size, stop // size)
        if logits is None or end % size == 0:
            logits = self._query_last(ids[-1:])
        return logits

    def decode(self, token: int) -> Tensor:
        """Appends one token; the logits behind it, `[vocabulary]` float32."""
        if self.position >= self._max_tokens:
            raise TooLarge(f"the sequence has reached the model's {self._max_tokens} tokens")
        return self._run(self._checked([token]))

    def plane(self, index: int, slot: int, half: Half, group: int, *, tokens: int = 0) -> Buffer:
        """The bytes of one plane of block `index`, of its first `tokens` tokens (default: all of a full block)."""
        start = index * self.spec.block_tokens
        end = start + (tokens or self.spec.block_tokens)
        if not 0 <= start < end <= self.position:
            raise InvalidArgument(f"block {index} is not complete at position {self.position}")
        return gather(self._buffers[slot].rows(half, self._heads(slot, group), slice(start, end)))

    def block(self, index: int, key: bytes) -> Block:
        """The full block `index`, named `key`, in memory of its own."""
        data = [self.plane(index, plane.slot, plane.half, plane.group) for plane in self._full]
        return Block(key, self.spec.block_tokens, self._full, data)

    def tail(self, key: bytes) -> Block:
        """The tokens behind the last full block as a short block named `key`."""
        index, tokens = divmod(self.position, self.spec.block_tokens)
        if not tokens:
            raise InvalidArgument(f"position {self.position} ends with a full block: there is no tail")
        planes = self.spec.planes(tokens)
        data = [self.plane(index, plane.slot, plane.half, plane.group, tokens=tokens) for plane in planes]
        return Block(key, tokens, planes, data, short=True)

    def _checked(self, tokens: Tokens[int]) -> Tensor:
        if not len(tokens):
            raise InvalidArgument("the prompt must not be empty")
        if len(tokens) > self._max_tokens:
            raise TooLarge(f"the prompt has {len(tokens)} tokens, the model takes {self._max_tokens}")
        ids = torch.as_tensor(tokens, dtype=torch.int64)
        if int(ids.min()) < 0 or int(ids.max()) >= self._vocabulary:
            raise InvalidArgument(f"token ids must lie in 0 .. {self._vocabulary - 1}")
        return ids

    def _query_last(self, last: Tensor) -> Tensor:
        """Logits of the last token from a query of it alone; its KV stays what the block holds.

        KV computed alone may differ in the last bit from KV computed in a chunk, so it is put back.
        """
        end = self.position
        places = [
            buffer.rows(half, slice(None), slice(end - 1, end)) for buffer in self._buffers for half in (Half.K, Half.V)
        ]
        kept = [rows.clone() for rows in places]
        self._crop(end - 1)
        try:
            return self._forward(last)
        finally:
            self._crop(end)
            for rows, before in zip(places, kept, strict=True):
                rows.copy_(before)
