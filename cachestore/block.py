"""The words for what is stored: spec, plane, part, block.

A **block** is the KV of `block_tokens` consecutive tokens in canonical order
`[slot, K/V, head group, head, token, head_dim]`. Its smallest piece is a **plane**: one slot, K or V, one head group,
shaped `[heads of the group, token, head_dim]`; planes are what is coded, checked and fetched. The **spec** is all that
makes two KVs compatible; its fingerprint is the root of every key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from cachestore.errors import InvalidArgument, UnsupportedModel

Buffer: TypeAlias = NDArray[np.uint8]
"""One-dimensional bytes. numpy copies them without holding the interpreter lock."""

Into: TypeAlias = Buffer | Sequence[Buffer]
"""Where a block is to be: all its planes one behind the other in one buffer, or each in one of its own."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}
CRYPTOGRAPHIC_HASHES = frozenset({"sha256", "sha256_cbor", "sha512", "sha3_256", "blake2b", "blake3"})


class Half(IntEnum):
    """Which half of a slot a plane holds. OPAQUE is the single plane of bytes of an opaque spec."""

    K = 0
    V = 1
    OPAQUE = 2


class Attention(StrEnum):
    """How a slot attends. A window is part of the spec because it changes what deeper layers compute."""

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"


class PlaneId(NamedTuple):
    """Where a plane belongs, how wide its elements are, and how many bytes it has before coding."""

    slot: int
    half: Half
    group: int
    item_bytes: int
    raw_bytes: int


@dataclass(frozen=True)
class Slot:
    """One stored KV layer. `value_dim = 0` means K only (latent attention keeps one plane a slot)."""

    kv_heads: int
    key_dim: int
    value_dim: int
    attention: Attention = Attention.FULL
    window: int = 0

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.key_dim < 1 or self.value_dim < 0:
            raise InvalidArgument(f"slot needs kv_heads >= 1, key_dim >= 1 and value_dim >= 0, got {self}")
        if (self.attention is Attention.FULL) != (self.window == 0):
            raise InvalidArgument(f"slot.window must be set for sliding or chunked attention only, got {self}")
        if self.window < 0:
            raise InvalidArgument(f"slot.window must not be negative, got {self}")


@dataclass(frozen=True)
class BlockSpec:
    """All that makes two KVs compatible. Any difference gives another fingerprint, and so shares nothing.

    `revision` is a hub commit or a hash over configuration and weight files. `weights` names load-time weight
    quantisation, empty for none. `rotary` is canonical JSON of the rotary settings and `rotary_regime` the table
    chosen for this request where a model has several (longrope). `adapter` and `adapter_revision` name a LoRA.
    `recipe` names lossy or request-dependent choices; empty means exact.
    """

    model: str
    revision: str
    dtype: str
    slots: tuple[Slot, ...]
    head_groups: int
    block_tokens: int = 64
    weights: str = ""
    rotary: str = ""
    rotary_regime: str = ""
    adapter: str = ""
    adapter_revision: str = ""
    recipe: str = ""

    def __post_init__(self) -> None:
        if not self.model or not self.revision:
            raise InvalidArgument("spec.model and spec.revision must not be empty: keys would collide across models")
        if self.dtype not in ITEM_BYTES:
            raise InvalidArgument(f"spec.dtype {self.dtype!r} is unknown; use one of {', '.join(ITEM_BYTES)}")
        if self.block_tokens < 1:
            raise InvalidArgument(f"spec.block_tokens must be at least 1, got {self.block_tokens}")
        if not self.slots:
            raise UnsupportedModel("spec.slots is empty: the model stores no KV")
        for index, slot in enumerate(self.slots):
            if self.head_groups < 1 or slot.kv_heads % self.head_groups:
                raise InvalidArgument(
                    f"spec.head_groups = {self.head_groups} must divide the {slot.kv_heads} KV heads of slot {index}"
                )

    def planes(self, tokens: int | None = None) -> tuple[PlaneId, ...]:
        """The planes of a block of `tokens` tokens (default: a full block), in canonical order."""
        count = self.block_tokens if tokens is None else tokens
        if not 1 <= count <= self.block_tokens:
            raise InvalidArgument(f"a block holds 1 to {self.block_tokens} tokens, got {count}")
        item = ITEM_BYTES[self.dtype]
        return tuple(
            PlaneId(index, half, group, item, slot.kv_heads // self.head_groups * count * dim * item)
            for index, slot in enumerate(self.slots)
            for half, dim in ((Half.K, slot.key_dim), (Half.V, slot.value_dim))
            if dim
            for group in range(self.head_groups)
        )


@dataclass(frozen=True)
class OpaqueSpec:
    """The spec of an engine that hands over its own page hashes and bytes instead of tokens.

    Its blocks are one plane of bytes under H(fingerprint ‖ engine key); nothing is shared with canonical blocks.
    `layout` names the engine's page layout and `setting` the engine's option that chose `hash_algorithm`.
    """

    engine: str
    engine_version: str
    model: str
    revision: str
    dtype: str
    layout: str
    rank: int
    world_size: int
    hash_algorithm: str
    setting: str = ""

    def __post_init__(self) -> None:
        for name in ("engine", "engine_version", "model", "revision", "dtype", "layout"):
            if not getattr(self, name):
                raise InvalidArgument(f"opaque spec.{name} must not be empty")
        if not 0 <= self.rank < self.world_size:
            raise InvalidArgument(f"opaque spec.rank {self.rank} is not below world_size {self.world_size}")
        if self.hash_algorithm not in CRYPTOGRAPHIC_HASHES:
            hint = f" by the setting {self.setting}" if self.setting else ""
            raise InvalidArgument(
                f"the engine's hash {self.hash_algorithm!r} can collide between prompts; "
                f"choose a cryptographic one{hint}: {', '.join(sorted(CRYPTOGRAPHIC_HASHES))}"
            )

    def planes(self, nbytes: int) -> tuple[PlaneId, ...]:
        """The single plane of a page of `nbytes` bytes."""
        return (PlaneId(0, Half.OPAQUE, 0, ITEM_BYTES.get(self.dtype, 1), nbytes),)


def pieces(data: Into) -> Sequence[Buffer]:
    """The buffers in which a block is: one, or one for each plane."""
    return (data,) if isinstance(data, np.ndarray) else data


def covered(planes: Sequence[PlaneId], first: int, nbytes: int) -> range:
    """The planes from `first` on that so many bytes are exactly; empty if they end inside one or beyond the last."""
    last, left = first, nbytes
    while left > 0 and last < len(planes):
        left -= planes[last].raw_bytes
        last += 1
    return range(first, last if left == 0 else first)


@dataclass(frozen=True)
class Part:
    """What a reader asks of a block: slots, halves and head groups; None means all of them."""

    slots: range | None = None
    halves: frozenset[Half] | None = None
    groups: range | None = None

    def __post_init__(self) -> None:
        for name in ("slots", "groups"):
            chosen = getattr(self, name)
            if chosen is not None and (chosen.step != 1 or not chosen or chosen.start < 0):
                raise InvalidArgument(f"part.{name} must be a non-empty range of step 1, got {chosen}")

    def holds(self, slot: int, half: int, group: int) -> bool:
        """Whether the plane at this place belongs to the part."""
        return (
            (self.slots is None or slot in self.slots)
            and (self.halves is None or half in self.halves)
            and (self.groups is None or group in self.groups)
        )


WHOLE = Part()


class Views(Sequence[Buffer]):
    """Buffers that are places in one: each becomes an array when it is asked for, since most readers want the whole."""

    def __init__(self, whole: Buffer, places: Sequence[slice]) -> None:
        self.whole = whole
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Buffer: ...
    @overload
    def __getitem__(self, index: slice) -> "Views": ...
    def __getitem__(self, index: int | slice) -> "Buffer | Views":
        if isinstance(index, slice):
            return Views(self.whole, self.places[index])
        return self.whole[self.places[index]]


@dataclass(frozen=True)
class Block:
    """One block in memory: its key, how many tokens it holds, and the raw bytes of its planes in order.

    `short` marks a block that holds less than `block_tokens` and so ends its chain.
    """

    key: bytes
    token_count: int
    planes: tuple[PlaneId, ...]
    data: Sequence[Buffer]
    short: bool = False

    def __post_init__(self) -> None:
        if len(self.planes) != len(self.data):
            raise InvalidArgument(f"block has {len(self.planes)} planes but {len(self.data)} buffers")
        if isinstance(self.data, Views):
            return  # planes and places come from one plane table
        for plane, data in zip(self.planes, self.data, strict=True):
            if data.nbytes != plane.raw_bytes:
                raise InvalidArgument(f"{plane} wants {plane.raw_bytes} bytes, got {data.nbytes}")
