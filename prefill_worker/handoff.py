"""What prefill tells decode, and its form on the wire."""

from typing import NamedTuple

from cachestore.service import convert
from cachestore.wire import worker_pb2 as wire
from prefill_worker.token import Token, token, token_message


class Begun(NamedTuple):
    """The prompt's blocks are in the store at `store`, or being written there: they can be waited for."""

    store: str


class Progress(NamedTuple):
    """The KV of so many of the prompt's tokens is there."""

    tokens: int


class Handoff(NamedTuple):
    """The prompt's first `blocks` full blocks are published, under this lease; the reader computes the rest."""

    lease: bytes
    blocks: int


Told = Begun | Progress | Token | Handoff
"""Begun and the first token behind the prompt, as soon as each is there; last the handoff. Progress all the while."""


def told(message: wire.PrefillResponse) -> Told:
    """What a prefill worker tells."""
    match message.WhichOneof("message"):
        case "begun":
            return Begun(convert.name(message.begun.store, "store"))
        case "token":
            return token(message.token)
        case "handoff":
            return Handoff(message.handoff.lease, message.handoff.blocks)
        case _:
            return Progress(message.progress.tokens)


def told_message(value: Told) -> wire.PrefillResponse:
    """The other way."""
    match value:
        case Begun(store):
            return wire.PrefillResponse(begun=wire.Begun(store=store))
        case Progress(tokens):
            return wire.PrefillResponse(progress=wire.Progress(tokens=tokens))
        case Handoff(lease, blocks):
            return wire.PrefillResponse(handoff=wire.Handoff(lease=lease, blocks=blocks))
        case _:
            return wire.PrefillResponse(token=token_message(value))
