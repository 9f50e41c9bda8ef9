"""A prompt's KV from a store as far as it is there, and from the model behind that.

The store is a help and never a condition: what it cannot do costs computation, and no error of it reaches the caller.
"""

from collections.abc import Sequence as Tokens
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from cachestore.deadline import Deadline
from cachestore.engine.sequence import Sequence
from cachestore.engine.writer import PUT_TIMEOUT, BlockWriter
from cachestore.errors import CacheStoreError, InvalidArgument, Mismatch
from cachestore.hashing import Chain, Extras, chain, fingerprint
from cachestore.store.base import TIMEOUT, Lease, Purpose, PutAnswer, Store

if TYPE_CHECKING:
    from cachestore.engine.hf import HfEngine

FALLBACK = "fallback"
"""Among the tiers of `load_prefix`: tokens that an error of the store left to be computed."""


def load_prefix(
    sequence: Sequence,
    store: Store,
    wanted: Chain,
    *,
    purpose: Purpose = Purpose.REUSE,
    lease: Lease | None = None,
    wait: float = 0.0,
    timeout: float = TIMEOUT,
) -> dict[str, int]:
    """Loads the ready prefix of `wanted`, the chain of the whole prompt, into the empty `sequence`.

    Tokens loaded by tier. Missing blocks are no entry; an error of the store ends the loading and counts what it
    left under `fallback`. InvalidArgument and Mismatch say that the chain cannot be meant for the sequence.
    """
    if sequence.position:
        raise InvalidArgument(f"the chain starts at position 0, the sequence is at {sequence.position}")
    if wanted.fingerprint != fingerprint(sequence.spec):
        raise Mismatch("the chain is of another spec than the engine's")
    tokens: dict[str, int] = {}
    loaded = 0
    try:
        if len(wanted):
            with store.read(wanted, lease=lease, wait=wait, purpose=purpose, timeout=timeout) as reading:
                for block, tier in reading:
                    sequence.load(block)
                    tokens[tier] = tokens.get(tier, 0) + block.token_count
                    loaded += 1
    except CacheStoreError:
        tokens[FALLBACK] = (len(wanted) - loaded) * sequence.spec.block_tokens
    return tokens


class Prefilled(NamedTuple):
    """A prompt ready to be decoded: its KV, the logits of its last token, and how it came about.

    `reused` is what `load_prefix` answers; `computed` counts tokens; `stored` has the answers for the
    full blocks that were put: those computed, and with a lease all.
    """

    sequence: Sequence
    logits: Tensor
    chain: Chain
    reused: dict[str, int]
    computed: int
    stored: list[PutAnswer]
    lease: Lease | None


def reuse(
    engine: "HfEngine",
    store: Store,
    tokens: Tokens[int],
    *,
    extras: Extras | None = None,
    purpose: Purpose = Purpose.REUSE,
    lease: float = 0.0,
    timeout: float = TIMEOUT,
    put_timeout: float = PUT_TIMEOUT,
    deadline: Deadline | None = None,
) -> Prefilled:
    """Prefills `tokens` with what the store has, and stores the full blocks it lacked.

    `lease` above zero asks for a lease of that many seconds on the prompt's blocks. `timeout` bounds the
    reading, `put_timeout` the put, which is open while the prompt is computed, `deadline` the computation:
    DeadlineExceeded between chunks.
    """
    sequence = engine.sequence()
    keys = chain(engine.spec, tokens, extras)
    reused = load_prefix(sequence, store, keys, purpose=purpose, timeout=timeout)
    start = sequence.position
    check = None if deadline is None else lambda: deadline.check("prefilling")
    first = 0 if lease else start // engine.spec.block_tokens
    with BlockWriter(sequence, store, keys, first, put_timeout) as writer:
        logits = sequence.prefill(tokens, on_blocks=writer.on_blocks, check=check)
        stored, given = writer.finish(lease=lease)
    return Prefilled(sequence, logits, keys, reused, len(tokens) - start, stored, given)
