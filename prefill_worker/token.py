"""A generated token, where its prompt's KV came from, and their form on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachestore.wire import worker_pb2 as wire


@dataclass(frozen=True)
class Reuse:
    """Where a prompt's tokens came from: `reused` by tier, the rest computed. Together they are the prompt."""

    computed: int
    reused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    """One generated token and its place among them, from 0. With the first one comes `reuse`, as in the usage.

    Where the request asked for it, `logprob` is the natural logarithm of its probability and `top` that of the
    likeliest tokens by token, before sampling changed them.
    """

    id: int
    index: int
    reuse: Reuse | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def reuse(message: wire.Reuse) -> Reuse:
    """Where tokens came from, as a worker tells it."""
    return Reuse(message.computed_tokens, dict(message.reused_tokens))


def reuse_message(value: Reuse) -> wire.Reuse:
    """The other way."""
    return wire.Reuse(computed_tokens=value.computed, reused_tokens=value.reused)


def token(message: wire.Token) -> Token:
    """A token as a worker tells it."""
    return Token(
        message.id, message.index, reuse(message.reuse) if message.HasField("reuse") else None,
        message.logprob if message.HasField("logprob") else None,
        tuple((each.id, each.logprob) for each in message.top),
    )  # fmt: skip


def token_message(value: Token) -> wire.Token:
    """The other way."""
    return wire.Token(
        id=value.id, index=value.index, reuse=None if value.reuse is None else reuse_message(value.reuse),
        logprob=value.logprob, top=[wire.TopLogprob(id=each, logprob=chance) for each, chance in value.top],
    )  # fmt: skip
