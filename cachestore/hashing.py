"""Keys: 32-byte names that any process, language or release computes alike.

Defined by bytes. A *frame* is a one-byte tag, the length as little-endian u32, then the value; H is SHA-256 over the
frames in the order given here:

    fingerprint  = H(DOMAIN "kv-cachestore/spec/1", FIELD each of `_SPEC_FIELDS` in order, one SLOT frame a slot of
                     the FIELD frames kv_heads, key_dim, value_dim, attention, window)
                   H(DOMAIN "kv-cachestore/opaque-spec/1", FIELD each of `_OPAQUE_FIELDS` in order)
    key[0]       = H(DOMAIN "kv-cachestore/key/1", ROOT fingerprint, TOKENS tokens, EXTRA e for each extra)
    key[i]       = H(DOMAIN "kv-cachestore/key/1", PARENT key[i-1],  TOKENS tokens, EXTRA e for each extra)
    opaque key   = H(DOMAIN "kv-cachestore/opaque-key/1", ROOT fingerprint, ENGINE_KEY engine key)
    namespace id = H(DOMAIN "kv-cachestore/namespace/1", FIELD name)

Text is UTF-8, integers in the fingerprint are decimal text, tokens are little-endian u32. Golden vectors are in the
tests and in `cachestore doctor`. Python's `hash` is never used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cachestore.block import BlockSpec, OpaqueSpec, Slot
from cachestore.errors import InvalidArgument

KEY_BYTES = 32
Extras = Mapping[int, Sequence[bytes]]
"""Further content by block index: image hashes, a request salt. It names the block it belongs to and all behind it."""

Tokens: TypeAlias = Sequence[int] | NDArray[Any] | bytes | bytearray | memoryview
"""Token ids: a flat list or array of integers of any width, or their bytes as little-endian 32-bit integers."""

_DOMAIN, _FIELD, _SLOT, _ROOT, _PARENT, _TOKENS, _EXTRA, _ENGINE_KEY = range(1, 9)
_SPEC_FIELDS = (
    "model",
    "revision",
    "dtype",
    "weights",
    "head_groups",
    "block_tokens",
    "rotary",
    "rotary_regime",
    "adapter",
    "adapter_revision",
    "recipe",
)
_OPAQUE_FIELDS = (
    "engine",
    "engine_version",
    "model",
    "revision",
    "dtype",
    "layout",
    "rank",
    "world_size",
    "hash_algorithm",
)


def _head(tag: int, nbytes: int) -> bytes:
    return bytes((tag,)) + nbytes.to_bytes(4, "little")


def _frame(tag: int, value: bytes) -> bytes:
    return _head(tag, len(value)) + value


def _text(value: object) -> bytes:
    try:
        return str(value).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("names and settings must be text that UTF-8 can carry") from None


_KEY_DOMAIN = _frame(_DOMAIN, b"kv-cachestore/key/1")


def fingerprint(spec: BlockSpec | OpaqueSpec) -> bytes:
    """The 32-byte hash of the canonical bytes of a spec."""
    if isinstance(spec, OpaqueSpec):
        frames = [_frame(_DOMAIN, b"kv-cachestore/opaque-spec/1")]
        frames += [_frame(_FIELD, _text(getattr(spec, name))) for name in _OPAQUE_FIELDS]
        return sha256(b"".join(frames)).digest()
    frames = [_frame(_DOMAIN, b"kv-cachestore/spec/1")]
    frames += [_frame(_FIELD, _text(getattr(spec, name))) for name in _SPEC_FIELDS]
    # most slots of a model are alike
    framed = {slot: _slot_frame(slot) for slot in set(spec.slots)}
    frames += [framed[slot] for slot in spec.slots]
    return sha256(b"".join(frames)).digest()


def _slot_frame(slot: Slot) -> bytes:
    fields = (slot.kv_heads, slot.key_dim, slot.value_dim, slot.attention.value, slot.window)
    return _frame(_SLOT, b"".join(_frame(_FIELD, _text(field)) for field in fields))


def namespace_id(name: str) -> bytes:
    """The 32-byte id of a namespace, as it stands in sealed headers."""
    if not name:
        raise InvalidArgument("namespace must not be empty")
    return sha256(_frame(_DOMAIN, b"kv-cachestore/namespace/1") + _frame(_FIELD, _text(name))).digest()


@dataclass(frozen=True)
class Chain:
    """The keys of one prompt's blocks, in order, with the fingerprint they grow from."""

    fingerprint: bytes
    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.fingerprint) != KEY_BYTES:
            raise InvalidArgument(f"fingerprint must be {KEY_BYTES} bytes, got {len(self.fingerprint)}")
        lengths = list(map(len, self.keys))
        if lengths.count(KEY_BYTES) != len(lengths):
            index = next(index for index, length in enumerate(lengths) if length != KEY_BYTES)
            raise InvalidArgument(f"keys[{index}] must be {KEY_BYTES} bytes, got {lengths[index]}")
        if len(set(self.keys)) != len(self.keys):
            raise InvalidArgument("keys must not repeat within one chain")

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, count: int) -> "Chain":
        """The chain's first `count` keys."""
        return Chain(self.fingerprint, self.keys[:count])

    def behind(self, count: int) -> "Chain":
        """The chain without its first `count` keys."""
        return Chain(self.fingerprint, self.keys[count:])

    def with_tail(self, tail: bytes) -> "Chain":
        """The chain with the key of a short last block behind it."""
        return Chain(self.fingerprint, (*self.keys, tail))


def _array(tokens: Tokens) -> NDArray[Any]:
    if isinstance(tokens, bytes | bytearray | memoryview) and (view := memoryview(tokens)).itemsize == 1:
        if not view.c_contiguous or view.nbytes % 4:
            raise InvalidArgument("tokens given as bytes must be whole little-endian 32-bit integers in one piece")
        return np.frombuffer(view, dtype="<i4")
    try:
        return np.asarray(tokens) if len(tokens) else np.empty(0, dtype="<i4")
    except (ValueError, TypeError):
        raise InvalidArgument("tokens must be one flat list of integers") from None


def _packed(tokens: Tokens) -> NDArray[np.uint32]:
    array = _array(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidArgument("tokens must be one flat list of integers")
    if array.size and (array.min() < 0 or array.max() >= 1 << 32):
        raise InvalidArgument("tokens must lie in 0 .. 2**32 - 1")
    return array.astype("<u4", copy=False)


def _framed(tokens: NDArray[np.uint32], size: int) -> list[bytes]:
    """The TOKENS frames of all full blocks of `size` tokens, laid out at once: no conversion block by block."""
    head = _head(_TOKENS, 4 * size)
    count = len(tokens) // size
    frames: NDArray[np.uint8] = np.empty((count, len(head) + 4 * size), dtype=np.uint8)
    frames[:, : len(head)] = np.frombuffer(head, dtype=np.uint8)
    frames[:, len(head) :] = np.ascontiguousarray(tokens[: count * size]).view(np.uint8).reshape(count, 4 * size)
    # a row seen as one item of that many bytes becomes one `bytes`
    rows: list[bytes] = frames.view(f"V{frames.shape[1]}").reshape(count).tolist()
    return rows


def chain(spec: BlockSpec, tokens: Tokens, extras: Extras | None = None) -> Chain:
    """The keys of all full blocks of `tokens`; tokens behind the last full block have none (see `tail_key`)."""
    return extend(spec, Chain(fingerprint(spec), ()), tokens, extras)


def extend(spec: BlockSpec, known: Chain, tokens: Tokens, extras: Extras | None = None) -> Chain:
    """`known`, and behind it the keys of all full blocks of `tokens`, which are those behind the blocks of `known`.

    `extras` are by block of the whole chain, as for `chain`.
    """
    extras = extras or {}
    for index, values in extras.items():
        if index < 0 or not all(isinstance(value, bytes) for value in values):
            raise InvalidArgument(f"extras[{index}] must be a sequence of bytes, for a block index of 0 or more")
    frames = _framed(_packed(tokens), spec.block_tokens)
    for index, values in extras.items():
        if 0 <= index - len(known) < len(frames):
            frames[index - len(known)] += b"".join(_frame(_EXTRA, value) for value in values)
    keys = list(known.keys)
    # what every hash begins with is hashed once
    behind = sha256(_KEY_DOMAIN + _head(_PARENT, KEY_BYTES))
    if keys:
        start, parent = behind, keys[-1]
    else:
        start, parent = sha256(_KEY_DOMAIN + _head(_ROOT, KEY_BYTES)), known.fingerprint
    for frame in frames:
        link = start.copy()
        link.update(parent + frame)
        parent, start = link.digest(), behind
        keys.append(parent)
    return Chain(known.fingerprint, tuple(keys))


def tail_key(spec: BlockSpec, full: Chain, tokens: Tokens, salt: bytes) -> bytes:
    """The key of the short block behind `full`: `tokens` are its 1 to block_tokens - 1 tokens.

    No key extends a short block, and `salt` keeps it to the request it was made for.
    """
    packed = _packed(tokens)
    if not 1 <= len(packed) < spec.block_tokens:
        raise InvalidArgument(f"a short block holds 1 to {spec.block_tokens - 1} tokens, got {len(packed)}")
    if not salt:
        raise InvalidArgument("salt must not be empty: a tail belongs to one request")
    tag, parent = (_PARENT, full.keys[-1]) if full.keys else (_ROOT, full.fingerprint)
    frames = _frame(tag, parent) + _frame(_TOKENS, packed.tobytes()) + _frame(_EXTRA, salt)
    return sha256(_KEY_DOMAIN + frames).digest()


def opaque_chain(spec: OpaqueSpec, engine_keys: Sequence[bytes]) -> Chain:
    """The keys of an engine's own page hashes, in the order given."""
    if any(not key for key in engine_keys):
        raise InvalidArgument("engine keys must not be empty")
    root = fingerprint(spec)
    head = _frame(_DOMAIN, b"kv-cachestore/opaque-key/1") + _frame(_ROOT, root)
    # most engines have keys of one length
    heads = {nbytes: head + _head(_ENGINE_KEY, nbytes) for nbytes in set(map(len, engine_keys))}
    return Chain(root, tuple(sha256(heads[len(key)] + key).digest() for key in engine_keys))
