"""Continuous batching: many sequences, at different places, in one run of the model.

A step computes some tokens of each sequence it is given: a chunk of a prompt, or the one token drawn last. Which
sequences and how many tokens is the scheduler's to say. Sequences come and go between steps, and share the pages of
what they have in common.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cachestore.engine.attention import OnSlot
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.page_moves import Incoming
from cachestore.engine.page_pool import PagePool
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.paged_sequence import PagedSequence, Plan
from cachestore.engine.ragged import Batch
from cachestore.engine.rounding import Rounding
from cachestore.errors import ConfigError, InvalidArgument, TooLarge
from cachestore.hashing import Extras


class Stepped(NamedTuple):
    """`logits` [sequences, vocabulary] float32 behind the last tokens of `sequences`: those with nothing left to do."""

    sequences: list[PagedSequence]
    logits: Tensor


class Runner:
    """An open model with `pages` pages. Not safe for use by several threads at once."""

    def __init__(self, model: PagedModel, pages: int) -> None:
        if pages < 1:
            raise ConfigError(f"batch.pages must be at least 1, got {pages}")
        self.model = model
        self.spec = model.spec
        self.pool = PagePool(pages)
        self.memory = PageMemory(model.spec, pages, model.device)
        self.rounding = Rounding.of(model.spec, self.memory)

    def start(
        self, tokens: Sequence[int], *, namespace: bytes = b"", extras: Extras | None = None, reuse: bool = True
    ) -> PagedSequence:
        """A sequence with the prompt `tokens`, holding the pages of the prefix that the pool has, unless not `reuse`.

        InvalidArgument for tokens the model does not know, TooLarge for more than it takes.
        """
        self._check(tokens)
        sequence = PagedSequence(self.spec, list(tokens), namespace, extras)
        if reuse:
            self.resume(sequence)
        return sequence

    def resume(self, sequence: PagedSequence) -> int:
        """Takes the blocks that the pool has behind the computed ones, if these end with a full block; how many.

        So a sequence that was released goes on, and one finds what another computed meanwhile.
        """
        first, behind = divmod(sequence.computed, self.spec.block_tokens)
        if behind or len(sequence.pages) != first:
            return 0
        pages = self.pool.lookup(sequence.namespace, sequence.chain().keys[first:])
        sequence.pages += pages
        sequence.named = len(sequence.pages)
        sequence.computed = sequence.named * self.spec.block_tokens
        return len(pages)

    def fork(self, sequence: PagedSequence) -> PagedSequence:
        """Another sequence that goes on from the same tokens. All pages are shared until one of both writes."""
        self.pool.share(sequence.pages)
        twin = PagedSequence(self.spec, list(sequence.tokens), sequence.namespace, sequence.extras)
        twin.pages, twin.computed, twin.named = list(sequence.pages), sequence.computed, sequence.named
        return twin

    def release(self, sequence: PagedSequence) -> None:
        """Gives the sequence's pages back; its full blocks stay cached. Releasing twice is allowed."""
        pages, sequence.pages = sequence.pages, []
        sequence.computed = sequence.named = 0
        sequence.coded = {}
        self.pool.release(pages)

    def wanted(self, plan: Plan) -> int:
        """How many pages a step with this plan takes from the pool."""
        return sum(sequence.wanted(count) + len(self._shared(sequence)) for sequence, count in plan)

    def most(self, computed: int, count: int) -> int:
        """How many of `count` tokens behind so many computed ones a step may take of one sequence."""
        size = self.spec.block_tokens
        return count if self.rounding is None else min(count, size - computed % size)

    def step(self, plan: Plan, on_slot: OnSlot | None = None) -> Stepped:
        """Computes so many tokens of each sequence in one run; `on_slot` is told of each slot that is done for all.

        Overloaded if the pool has too few pages, TooLarge if a sequence is longer than the model takes, InvalidArgument
        for more tokens of one than `most`; then nothing has changed. Of a block that a recipe rounds there are no
        logits when it becomes full: they come with the step that asks for its last token again.
        """
        rows = [sequence.row(count) for sequence, count in plan]
        if any(self.most(row.start, len(row.tokens)) < len(row.tokens) for row in rows):
            raise InvalidArgument(f"plan: spec.recipe = {self.spec.recipe!r} takes no step beyond the end of a block")
        if not rows or len({id(sequence) for sequence, _ in plan}) != len(rows):
            raise InvalidArgument("plan: a step needs one sequence or more, and each of them once")
        longest = max(row.end for row in rows)
        if longest > self.model.max_tokens:
            raise TooLarge(f"plan: {longest} tokens are more than the model's {self.model.max_tokens}")
        self._make_room(plan)
        batch = Batch(rows, self.spec.block_tokens, self.memory.dtype, self.memory.device)
        ended = [
            row.end == len(sequence.tokens) and not (row.write and self._rounds(row.end))
            for row, (sequence, _) in zip(rows, plan, strict=True)
        ]
        last = [at for at, end in zip(batch.last, ended, strict=True) if end]
        logits = self.model.forward(batch, self.memory, last, on_slot)
        for (sequence, _), row in zip(plan, rows, strict=True):
            sequence.computed = max(sequence.computed, row.end)
        self._settle([sequence for sequence, _ in plan])
        for sequence, _ in plan:
            self._name(sequence)
        return Stepped([sequence for (sequence, _), end in zip(plan, ended, strict=True) if end], logits)

    def reserve(self, sequence: PagedSequence, blocks: int) -> Incoming:
        """Takes pages for so many blocks behind the computed ones, for a store's reads to fill.

        Overloaded if there are too few. InvalidArgument if blocks do not fit there. `accept` says how many came.
        """
        first = sequence.computed // self.spec.block_tokens
        if sequence.computed % self.spec.block_tokens or len(sequence.pages) != first:
            raise InvalidArgument(f"no block can follow at position {sequence.computed}: the block before is not full")
        sequence.pages += self.pool.take(blocks)
        return self.memory.moves.incoming(sequence.pages[first:], self.memory.moves.mark())

    def accept(self, sequence: PagedSequence, blocks: int) -> None:
        """The first `blocks` reserved blocks are filled; pages of those that did not come are given back."""
        first = sequence.computed // self.spec.block_tokens
        end = first + blocks
        left = sequence.pages[end:]
        del sequence.pages[end:]
        self.pool.release(left)
        sequence.computed = end * self.spec.block_tokens
        self._name(sequence)

    def _check(self, tokens: Sequence[int]) -> None:
        if not len(tokens):
            raise InvalidArgument("tokens must not be empty")
        if len(tokens) > self.model.max_tokens:
            raise TooLarge(f"tokens: the prompt has {len(tokens)} tokens, the model takes {self.model.max_tokens}")
        if min(tokens) < 0 or max(tokens) >= self.model.vocabulary:
            raise InvalidArgument(f"tokens must lie in 0 .. {self.model.vocabulary - 1}")

    def _shared(self, sequence: PagedSequence) -> list[int]:
        """The page the next token goes to, as an index in a list, if it must be copied before; else nothing."""
        index, filled = divmod(sequence.computed, self.spec.block_tokens)
        shared = filled and sequence.computed < len(sequence.tokens) and self.pool.shared(sequence.pages[index])
        return [index] if shared else []

    def _make_room(self, plan: Plan) -> None:
        """Pages for what the step writes, that nobody else reads."""
        # one request for all, so that a step that does not fit takes nothing
        fresh = self.pool.take(self.wanted(plan))
        for sequence, count in plan:
            for index in self._shared(sequence):
                page = sequence.pages[index]
                sequence.pages[index] = fresh.pop()
                self.memory.copy(page, sequence.pages[index])
                self.pool.release([page])
            more = sequence.wanted(count)
            sequence.pages += [fresh.pop() for _ in range(more)]
            if more:
                # what is masked must be numbers, and the last holder may have left anything
                self.memory.zero(sequence.pages[-1])
        # of several that shared a page the last one keeps it
        self.pool.release(fresh)

    def _rounds(self, computed: int) -> bool:
        """Whether the last of so many tokens makes a block full that is rounded then."""
        return self.rounding is not None and computed % self.spec.block_tokens == 0

    def _settle(self, sequences: Sequence[PagedSequence]) -> None:
        """Rounds the blocks that have become full, where the recipe says so."""
        if self.rounding is None:
            return
        size = self.spec.block_tokens
        full = [(each, number) for each in sequences for number in range(each.named, each.computed // size)]
        coded = self.rounding.settle([each.pages[number] for each, number in full])
        for (each, number), planes in zip(full, coded, strict=True):
            each.coded[number] = planes

    def _name(self, sequence: PagedSequence) -> None:
        """Enters the blocks that have become full into the prefix index."""
        full = sequence.computed // self.spec.block_tokens
        if full > sequence.named:
            keys = sequence.chain().keys
            for index in range(sequence.named, full):
                page = self.pool.name(sequence.pages[index], sequence.namespace, keys[index])
                if page != sequence.pages[index]:
                    # the page that stays was rounded from what another computed
                    sequence.coded.pop(index, None)
                sequence.pages[index] = page
            sequence.named = full


def memory_pages(model: PagedModel, nbytes: int) -> int:
    """How many pages fit into so many bytes. ConfigError if none does."""
    one = PageMemory.page_bytes(model.spec)
    if nbytes < one:
        raise ConfigError(f"batch.memory = {nbytes} bytes hold no page of {one} bytes; give it more")
    return nbytes // one


def greedy(logits: Tensor) -> list[int]:
    """The likeliest token of each row."""
    best: list[int] = torch.argmax(logits, -1).tolist()
    return best
