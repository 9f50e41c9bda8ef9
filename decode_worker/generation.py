"""One request from its prompt to its last token.

Where the prompt's KV comes from changes nothing in the tokens. A prefill worker picks the first one with the request's
own seed, so the sampler here draws it too and drops it: from then on it is where it would be had it picked itself.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from cachestore.engine.generation import FALLBACK, load_prefix
from cachestore.engine.sampling import Sampler
from cachestore.engine.writer import BlockWriter
from cachestore.store.base import Store
from decode_worker.request import LENGTH, LOCAL, STOP, Request, Token, Usage
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff, Reuse
from prefill_worker.prompt import CacheUse

if TYPE_CHECKING:
    from decode_worker.worker import DecodeWorker


class Generation:
    """The state of one request; `run` gives its tokens, then `usage` says how it went."""

    def __init__(self, worker: "DecodeWorker", store: Store, request: Request, call: Call) -> None:
        self._worker = worker
        self._kept_in = store
        self._request = request
        self._call = call
        self._engine = worker.engine
        self._sequence = worker.engine.sequence()
        self._sampler = Sampler(request.prompt.sampling)
        self._stop = request.stop_tokens | worker.engine.eos_tokens
        prompt = request.prompt
        # the last token of all needs no KV, so one more fits than the model takes
        self._longest = min(request.max_tokens, worker.engine.max_tokens - len(prompt.tokens) + 1)
        self._use_store = prompt.cache is CacheUse.READ_AND_WRITE
        self._keys = prompt.chain(worker.engine, prompt.tokens)
        self._tokens = list(prompt.tokens)
        self._stored = 0
        self._arrived = time.monotonic()
        self._first_ms = 0.0
        self._by = LOCAL
        self._reuse = Reuse(0)
        self._loaded = 0
        self._took = False

    def run(self) -> Iterator[Token]:
        """The tokens as they are made. At the end the blocks they completed are stored."""
        if self._use_store and not self._worker.workers.reachable():
            self._without_store("map")
        handed = self._worker.asking.ask(self._request.prompt, self._keys, self._call) if self._use_store else None
        if handed is None:
            yield self._add(self._prefilled())
            yield from self._decoded()
            return
        self._by, self._reuse = handed.by, handed.handoff.reuse
        try:
            yield from self._from_handoff(handed.handoff)
            yield from self._decoded()
        finally:
            if self._took:
                self._worker.handoffs.forget_tail(handed.handoff, self._call.caller)
            else:
                self._worker.handoffs.give_up(handed.handoff, self._call.caller)

    def _decoded(self) -> Iterator[Token]:
        """The tokens behind the first."""
        while not self._finish():
            self._call.check("generating")
            with self._worker.turns.turn(self._call):
                logits = self._sequence.decode(self._tokens[-1])
            yield self._add(self._sampler.pick(logits))
        self._store()

    def usage(self) -> Usage:
        """How it went; once `run` has ended."""
        prompt = len(self._request.prompt.tokens)
        return Usage(
            prompt, len(self._tokens) - prompt, self._reuse, self._finish(), self._by, self._first_ms, self._loaded
        )

    def _generated(self) -> int:
        return len(self._tokens) - len(self._request.prompt.tokens)

    def _finish(self) -> str:
        if self._generated() and self._tokens[-1] in self._stop:
            return STOP
        return LENGTH if self._generated() >= self._longest else ""

    def _add(self, token: int) -> Token:
        if not self._generated():
            self._first_ms = (time.monotonic() - self._arrived) * 1000
        self._tokens.append(token)
        first = self._generated() == 1
        return Token(token, self._generated() - 1, self._reuse if first else None)

    def _from_handoff(self, handoff: Handoff) -> Iterator[Token]:
        """The first token at once, then the KV of the prompt: loaded, and computed as far as that is not possible."""
        prompt = self._request.prompt.tokens
        self._sampler.pick(torch.zeros(self._engine.vocabulary))
        yield self._add(handoff.first_token)
        if self._finish():
            return
        self._took = True
        self._worker.handoffs.load(handoff, self._sequence, self._call)
        self._loaded = self._sequence.position
        self._stored = self._loaded // self._engine.spec.block_tokens
        if self._loaded < len(prompt):
            self._worker.counters.add("recomputed_tokens", len(prompt) - self._loaded)
            with self._worker.turns.turn(self._call) as again:
                self._sequence.prefill(prompt, check=again)

    def _prefilled(self) -> int:
        """The first token, after a prefill in this process, with what the store has."""
        prompt, sequence, worker, call = self._request.prompt.tokens, self._sequence, self._worker, self._call
        reused: dict[str, int] = {}
        if self._use_store:
            reused = load_prefix(
                sequence, self._kept_in, self._keys, timeout=self._within(worker.settings.store_timeout)
            )
            if reused.pop(FALLBACK, 0):
                self._without_store("read")
        self._reuse = Reuse(len(prompt) - sequence.position, reused)
        call.check("prefilling")
        keys = self._keys if self._use_store else self._keys.first(0)
        first = sequence.position // self._engine.spec.block_tokens
        with BlockWriter(sequence, self._kept_in, keys, first, max(call.deadline.remaining(), 1e-3)) as writer:
            with worker.turns.turn(call) as again:
                logits = sequence.prefill(prompt, on_blocks=writer.on_blocks, check=again)
            token = self._sampler.pick(logits)
            writer.finish()
        if writer.error is not None:
            self._without_store("write")
        self._stored = len(keys)
        return token

    def _without_store(self, doing: str) -> None:
        """Goes on without the store: one that did not answer is not worth waiting for again."""
        self._use_store = False
        self._worker.counters.add("fallback_store", doing=doing)

    def _store(self) -> None:
        """Puts the full blocks that the store has not seen, so that the conversation's next turn finds them."""
        blocks = self._sequence.position // self._engine.spec.block_tokens
        if not self._use_store or blocks <= self._stored:
            return
        keys = self._request.prompt.chain(self._engine, self._tokens[: self._sequence.position])
        timeout = self._within(self._worker.settings.put_timeout)
        with BlockWriter(self._sequence, self._kept_in, keys, self._stored, timeout) as writer:
            writer.finish()
        if writer.error is not None:
            self._without_store("write")

    def _within(self, seconds: float) -> float:
        return max(min(seconds, self._call.deadline.remaining()), 1e-3)
