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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from cachestore.block import BlockSpec, OpaqueSpec
from cachestore.errors import InvalidArgument

KEY_BYTES = 32
Extras = Mapping[int, Sequence[bytes]]
"""Further content by block index: image hashes, a request salt. It names the block it belongs to and all behind it."""

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


def _frame(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + len(value).to_bytes(4, "little") + value


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
    for slot in spec.slots:
        fields = (slot.kv_heads, slot.key_dim, slot.value_dim, slot.attention.value, slot.window)
        frames.append(_frame(_SLOT, b"".join(_frame(_FIELD, _text(field)) for field in fields)))
    return sha256(b"".join(frames)).digest()


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
        for index, key in enumerate(self.keys):
            if len(key) != KEY_BYTES:
                raise InvalidArgument(f"keys[{index}] must be {KEY_BYTES} bytes, got {len(key)}")
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


def _packed(tokens: Sequence[int]) -> bytes:
    try:
        array = np.asarray(tokens) if len(tokens) else np.empty(0, dtype=np.int64)
    except ValueError:
        raise InvalidArgument("tokens must be one flat list of integers") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidArgument("tokens must be one flat list of integers")
    if array.size and (array.min() < 0 or array.max() >= 1 << 32):
        raise InvalidArgument("tokens must lie in 0 .. 2**32 - 1")
    return array.astype("<u4").tobytes()


def _link(tag: int, parent: bytes, tokens: bytes, extras: Iterable[bytes]) -> bytes:
    more = b"".join(_frame(_EXTRA, extra) for extra in extras)
    return sha256(_KEY_DOMAIN + _frame(tag, parent) + _frame(_TOKENS, tokens) + more).digest()


def chain(spec: BlockSpec, tokens: Sequence[int], extras: Extras | None = None) -> Chain:
    """The keys of all full blocks of `tokens`; tokens behind the last full block have none (see `tail_key`)."""
    extras = extras or {}
    for index, values in extras.items():
        if index < 0 or not all(isinstance(value, bytes) for value in values):
            raise InvalidArgument(f"extras[{index}] must be a sequence of bytes, for a block index of 0 or more")
    size = spec.block_tokens
    count = len(tokens) // size
    packed = _packed(tokens)
    root = fingerprint(spec)
    parent, tag, keys = root, _ROOT, []
    for index in range(count):
        parent = _link(tag, parent, packed[4 * size * index : 4 * size * (index + 1)], extras.get(index, ()))
        tag = _PARENT
        keys.append(parent)
    return Chain(root, tuple(keys))


def tail_key(spec: BlockSpec, full: Chain, tokens: Sequence[int], salt: bytes) -> bytes:
    """The key of the short block behind `full`: `tokens` are its 1 to block_tokens - 1 tokens.

    No key extends a short block, and `salt` keeps it to the request it was made for.
    """
    if not 1 <= len(tokens) < spec.block_tokens:
        raise InvalidArgument(f"a short block holds 1 to {spec.block_tokens - 1} tokens, got {len(tokens)}")
    if not salt:
        raise InvalidArgument("salt must not be empty: a tail belongs to one request")
    tag, parent = (_PARENT, full.keys[-1]) if full.keys else (_ROOT, full.fingerprint)
    return _link(tag, parent, _packed(tokens), (salt,))


def opaque_chain(spec: OpaqueSpec, engine_keys: Sequence[bytes]) -> Chain:
    """The keys of an engine's own page hashes, in the order given."""
    if any(not key for key in engine_keys):
        raise InvalidArgument("engine keys must not be empty")
    root = fingerprint(spec)
    head = _frame(_DOMAIN, b"kv-cachestore/opaque-key/1") + _frame(_ROOT, root)
    return Chain(root, tuple(sha256(head + _frame(_ENGINE_KEY, key)).digest() for key in engine_keys))
