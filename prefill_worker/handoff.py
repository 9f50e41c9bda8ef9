"""What prefill tells decode, and its form on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachestore.errors import Mismatch
from cachestore.hashing import Chain
from cachestore.service import convert
from cachestore.store.base import Lease
from cachestore.wire import worker_pb2 as wire


@dataclass(frozen=True)
class Reuse:
    """Where a prompt's tokens came from: `reused` by tier, the rest computed. Together they are the prompt."""

    computed: int
    reused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Handoff:
    """The leased blocks of a prompt, in the store at `store`, and the first token behind the prompt.

    An empty chain has no lease.

    `chain` names full blocks and then, if `tail_tokens` is not 0, a short one. They cover the prompt's first
    `position` tokens: all of it, or less if the store could not keep every block. The reader computes the rest.
    """

    chain: Chain
    tail_tokens: int
    lease: bytes
    store: str
    position: int
    first_token: int
    reuse: Reuse

    @property
    def tail(self) -> Chain:
        """The short block alone; empty if there is none."""
        return self.chain.behind(len(self.chain) - 1) if self.tail_tokens else self.chain.first(0)

    def leased(self) -> Lease:
        """The lease as the store's calls take it."""
        return Lease(self.lease, len(self.chain), 0.0)

    def check(self, expected: Chain, tokens: int, block_tokens: int, vocabulary: int) -> None:
        """Mismatch unless this can be the handoff of a prompt of `tokens` tokens whose full blocks are `expected`."""
        full = len(self.chain) - bool(self.tail_tokens)
        fits = (
            self.chain.fingerprint == expected.fingerprint
            and 0 <= full
            and self.chain.keys[:full] == expected.keys[:full]
            and self.position == full * block_tokens + self.tail_tokens
            and self.tail_tokens in (0, tokens - len(expected) * block_tokens)
            and (full == len(expected) or not self.tail_tokens)
            and self.first_token < vocabulary
        )
        if not fits:
            raise Mismatch("the handoff is not of the prompt that was asked for")


def reuse(message: wire.Reuse) -> Reuse:
    """Where tokens came from, as a worker tells it."""
    return Reuse(message.computed_tokens, dict(message.reused_tokens))


def reuse_message(value: Reuse) -> wire.Reuse:
    """The other way."""
    return wire.Reuse(computed_tokens=value.computed, reused_tokens=value.reused)


def handoff(message: wire.Handoff) -> Handoff:
    """A handoff as a prefill worker tells it."""
    return Handoff(
        convert.chain(message.chain), message.tail_tokens, message.lease, convert.name(message.store, "store"),
        message.position, message.first_token, reuse(message.reuse),
    )  # fmt: skip


def handoff_message(value: Handoff) -> wire.Handoff:
    """The other way."""
    return wire.Handoff(
        chain=convert.chain_message(value.chain), tail_tokens=value.tail_tokens, lease=value.lease, store=value.store,
        position=value.position, first_token=value.first_token, reuse=reuse_message(value.reuse),
    )  # fmt: skip
