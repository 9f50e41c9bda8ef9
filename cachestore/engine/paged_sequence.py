"""One sequence of the paged engine: its tokens, and the pages that hold their KV."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cachestore.block import BlockSpec
from cachestore.codecs.base import Encoded
from cachestore.engine.ragged import Row
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, Extras, chain, extend


@dataclass(eq=False)
class PagedSequence:
    """`tokens` are the prompt and what was generated; the first `computed` have their KV in `pages`.

    The first `named` blocks are in the pool's prefix index, under keys that belong to `namespace`. What is computed,
    and which pages there are, changes only through a `Runner`.
    """

    spec: BlockSpec
    tokens: list[int]
    namespace: bytes = b""
    extras: Extras | None = None
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    named: int = 0
    coded: dict[int, list[Encoded]] = field(default_factory=dict)
    """By number, the blocks that were computed since somebody took these, where a recipe rounds them: as stored."""
    _chain: Chain | None = None

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be drawn; at least 1, since the last must be queried."""
        return max(len(self.tokens) - self.computed, 1)

    def append(self, token: int) -> None:
        """Takes the token drawn behind the last."""
        self.tokens.append(token)

    def chain(self) -> Chain:
        """The keys of all full blocks of the tokens so far."""
        size = self.spec.block_tokens
        if self._chain is None:
            self._chain = chain(self.spec, self.tokens, self.extras)
        elif len(self._chain) < len(self.tokens) // size:
            self._chain = extend(self.spec, self._chain, self.tokens[len(self._chain) * size :], self.extras)
        return self._chain

    def row(self, count: int) -> Row:
        """The next `count` tokens as a share of a step; the last one queried again if all are computed.

        InvalidArgument unless so many are pending.
        """
        if not 1 <= count <= self.pending:
            raise InvalidArgument(f"plan: {count} tokens of a sequence with {self.pending} tokens pending")
        start = min(self.computed, len(self.tokens) - 1)
        return Row(self.tokens[start : start + count], start, self.pages, start == self.computed)

    def wanted(self, count: int) -> int:
        """Pages it lacks to compute `count` tokens more."""
        end = min(self.computed, len(self.tokens) - 1) + count
        return max(0, -(-end // self.spec.block_tokens) - len(self.pages))


Plan = Sequence[tuple[PagedSequence, int]]
"""What one step computes: sequences, and how many tokens of each."""
