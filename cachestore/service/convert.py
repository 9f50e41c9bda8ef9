"""Wire messages to domain values and back; those of puts are in `convert_put`, the enums in `words`.

Whatever comes from outside is checked here, before anything is allocated for it: InvalidArgument names the field and
the fix. Unknown fields are ignored, as protobuf means them to be; unknown enum values are not.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cachestore.block import Half, Part
from cachestore.errors import InvalidArgument, TooLarge
from cachestore.hashing import KEY_BYTES, Chain
from cachestore.metrics import Figure
from cachestore.seal import DIGEST_BYTES, MAX_PLANES
from cachestore.service.members import Member
from cachestore.service.words import VERDICT
from cachestore.store.base import Lease, Lookup, Run, Verdict
from cachestore.store.leases import ID_BYTES
from cachestore.wire import store_pb2 as wire

MOST_KEYS = 1 << 16
LONGEST_ID = 64
LONGEST_NAME = 256
LONGEST_MS = (1 << 32) - 1


def key(value: bytes, field: str) -> bytes:
    """A key or fingerprint as it comes from outside."""
    if len(value) != KEY_BYTES:
        raise InvalidArgument(f"{field} must be {KEY_BYTES} bytes, got {len(value)}")
    return value


def chain(message: wire.Chain) -> Chain:
    """The chain of a request, of 65,536 keys at most."""
    count, rest = divmod(len(message.keys), KEY_BYTES)
    if rest:
        raise InvalidArgument(f"chain.keys must be whole keys of {KEY_BYTES} bytes, got {len(message.keys)} bytes")
    if count > MOST_KEYS:
        raise TooLarge(f"chain.keys may hold {MOST_KEYS} keys, got {count}; ask in several calls")
    packed = message.keys
    keys = tuple(packed[at : at + KEY_BYTES] for at in range(0, len(packed), KEY_BYTES))
    return Chain(key(message.fingerprint, "chain.fingerprint"), keys)


def chain_message(value: Chain) -> wire.Chain:
    """The other way; TooLarge for more keys than a call may have."""
    if len(value) > MOST_KEYS:
        raise TooLarge(f"keys: a call takes at most {MOST_KEYS} keys, got {len(value)}; ask in several calls")
    return wire.Chain(fingerprint=value.fingerprint, keys=b"".join(value.keys))


def part(message: wire.Part) -> Part:
    """The part of a request."""
    if message.keys_only and message.values_only:
        raise InvalidArgument("part.keys_only and part.values_only exclude each other; set neither for both halves")
    for field, first, count in (
        ("slot", message.first_slot, message.slots),
        ("group", message.first_group, message.groups),
    ):
        if first and not count:
            raise InvalidArgument(f"part.first_{field} = {first} needs part.{field}s to say how many")
        if first + count > MAX_PLANES:
            raise InvalidArgument(f"part.{field}s must end by {MAX_PLANES}, got {first} + {count}")
    halves = {Half.K} if message.keys_only else {Half.V} if message.values_only else None
    return Part(
        range(message.first_slot, message.first_slot + message.slots) if message.slots else None,
        frozenset(halves) if halves else None,
        range(message.first_group, message.first_group + message.groups) if message.groups else None,
    )


def part_message(value: Part) -> wire.Part:
    """The other way; InvalidArgument for a choice of halves that is neither K, V nor both."""
    halves = value.halves or frozenset((Half.K, Half.V))
    if halves not in ({Half.K, Half.V}, {Half.K}, {Half.V}):
        raise InvalidArgument("part.halves must be K, V or both; leave it out for opaque blocks")
    slots, groups = value.slots or range(0), value.groups or range(0)
    return wire.Part(
        first_slot=slots.start, slots=len(slots), keys_only=halves == {Half.K}, values_only=halves == {Half.V},
        first_group=groups.start, groups=len(groups),
    )  # fmt: skip


class Place(NamedTuple):
    """Where a broken read goes on: at `offset` in the payload of a block, of the sealed form that `digest` names."""

    block: int = 0
    digest: bytes = b""
    offset: int = 0


def place(message: wire.Resume, chain: Chain) -> Place:
    """Where in the chain a read is resumed."""
    if message.key not in chain.keys:
        raise InvalidArgument("resume.key is none of the keys in chain.keys")
    if len(message.digest) != (DIGEST_BYTES if message.digest or message.offset else 0):
        raise InvalidArgument(
            f"resume.digest must be the last {DIGEST_BYTES} bytes of the block's sealed header where resume.offset is "
            f"given, got {len(message.digest)}"
        )
    return Place(chain.keys.index(message.key), message.digest, message.offset)


def identifier(value: bytes, field: str) -> bytes:
    """A lease's or put's id as a caller sends it; whether it exists is for the store to say."""
    if not 1 <= len(value) <= LONGEST_ID:
        raise InvalidArgument(f"{field} must be the 1 to {LONGEST_ID} bytes that the store gave, got {len(value)}")
    return value


def new_lease(value: bytes) -> bytes:
    """The name that a caller has drawn for the lease it opens; empty if it leaves that to the store."""
    if value and len(value) != ID_BYTES:
        raise InvalidArgument(f"new_lease must be {ID_BYTES} bytes drawn at random, got {len(value)}")
    return value


def verdicts(numbers: Sequence[int]) -> tuple[Verdict, ...]:
    """The verdicts of a Release, in the order of the leased blocks."""
    if len(numbers) > MOST_KEYS:
        raise InvalidArgument(f"verdicts: a lease has at most {MOST_KEYS} blocks, got {len(numbers)}")
    return tuple(VERDICT.words(numbers))


def milliseconds(value: float, field: str) -> int:
    """Seconds as whole milliseconds, at least one for anything above zero."""
    if not 0 <= value * 1000 <= LONGEST_MS:
        raise InvalidArgument(f"{field} must lie in 0 .. {LONGEST_MS // 1000} seconds, got {value!r}")
    return max(1, round(value * 1000)) if value else 0


def lifetime(value: float | None) -> int:
    """A caller's time to live as milliseconds, zero for the store's own; InvalidArgument unless above zero."""
    if value is None:
        return 0
    if not value > 0:
        raise InvalidArgument(f"ttl must be more than 0 seconds, got {value!r}")
    return milliseconds(value, "ttl")


def seconds(value: int) -> float | None:
    """Milliseconds of a request as seconds; zero means that the store chooses."""
    if value > LONGEST_MS:
        raise InvalidArgument(f"a time in milliseconds must not exceed {LONGEST_MS}, got {value}")
    return value / 1000 if value else None


def runs(messages: Iterable[wire.Run]) -> tuple[Run, ...]:
    """Runs as the store told them."""
    return tuple(Run(run.blocks, run.tier, run.node) for run in messages)


def run_messages(values: Iterable[Run]) -> list[wire.Run]:
    """The other way."""
    return [wire.Run(blocks=run.blocks, tier=run.tier, node=run.node) for run in values]


def lookup(message: wire.LookupResponse) -> Lookup:
    """The answer to a Lookup."""
    return Lookup(message.ready, runs(message.runs), message.writing)


def lookup_message(value: Lookup) -> wire.LookupResponse:
    """The other way."""
    return wire.LookupResponse(ready=value.ready, runs=run_messages(value.runs), writing=value.writing)


def figures(messages: Iterable[wire.Figure]) -> list[Figure]:
    """Figures as the store counts them."""
    return [Figure(m.name, tuple(sorted(m.labels.items())), m.value) for m in messages]


def figure_messages(values: Iterable[Figure]) -> list[wire.Figure]:
    """The other way."""
    return [wire.Figure(name=f.name, labels=dict(f.labels), value=f.value) for f in values]


def member(message: wire.Member) -> Member:
    """A member as a worker tells it."""
    for field in ("role", "name", "address", "node"):
        if len(getattr(message, field)) > LONGEST_NAME:
            raise InvalidArgument(f"member.{field} must not be longer than {LONGEST_NAME} characters")
    for field in ("incarnation", "fingerprint"):
        if len(getattr(message, field)) > LONGEST_ID:
            raise InvalidArgument(f"member.{field} must not be longer than {LONGEST_ID} bytes")
    return Member(
        message.role, message.name, message.address, message.node,
        message.incarnation, message.queue, message.fingerprint,
    )  # fmt: skip


def member_message(value: Member) -> wire.Member:
    """The other way."""
    return wire.Member(
        role=value.role, name=value.name, address=value.address, node=value.node,
        incarnation=value.incarnation, queue=value.queue, fingerprint=value.fingerprint,
    )  # fmt: skip


def name(value: str, field: str) -> str:
    """A tier's or role's name as a caller sends it; whether it exists is for others to say."""
    if len(value) > LONGEST_NAME:
        raise InvalidArgument(f"{field} must not be longer than {LONGEST_NAME} characters")
    return value


def renewal(ttl: float | None) -> float:
    """The time to live that a renewal must bring."""
    if ttl is None:
        raise InvalidArgument("lease_ms must say for how long the lease is prolonged")
    return ttl


def lease(message: wire.LeaseResponse) -> Lease:
    """A lease as the store gave it."""
    return Lease(message.lease, message.blocks, message.lease_ms / 1000, runs(message.runs))


def lease_message(value: Lease) -> wire.LeaseResponse:
    """The other way."""
    return wire.LeaseResponse(
        lease=value.id, blocks=value.blocks, lease_ms=round(value.ttl * 1000), runs=run_messages(value.runs)
    )
