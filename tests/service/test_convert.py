from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.block import WHOLE, Half, Part
from cachestore.errors import InvalidArgument, TooLarge
from cachestore.hashing import Chain
from cachestore.metrics import Figure
from cachestore.service import convert, convert_put
from cachestore.service.members import Member
from cachestore.service.words import DURABILITY, PURPOSE, PUT_STATUS, VERDICT
from cachestore.store.base import BlockPlan, Durability, Lease, Lookup, PutAnswer, PutStatus, Run
from cachestore.testing import small_spec
from cachestore.wire import store_pb2 as wire

KEYS = tuple(bytes([number]) * 32 for number in range(3))
CHAIN = Chain(bytes(32), KEYS)
RUNS = (Run(2, "cpu", "a"), Run(1, "disk", "b"))


def reserve(**changes: Any) -> wire.Reserve:
    plans = tuple(BlockPlan(key, 4, small_spec().planes()) for key in KEYS)
    message = convert_put.reserve_message(convert_put.Reservation(bytes(32), plans, Durability.CACHE, None))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def plane(**changes: int) -> wire.Reserve:
    message = reserve()
    for name, value in changes.items():
        setattr(message.layouts[0].planes[0], name, value)
    return message


def many_planes(layouts: int, blocks: int) -> wire.Reserve:
    planes = [wire.PlaneId(slot=slot, item_bytes=1, raw_bytes=1) for slot in range(layouts)]
    keys = [wire.Reserve.Block(key=number.to_bytes(32, "big"), token_count=1) for number in range(blocks)]
    return wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=keys)


def block(**changes: Any) -> wire.Reserve:
    message = reserve()
    for name, value in changes.items():
        setattr(message.blocks[1], name, value)
    return message


def test_values_come_back_as_they_went() -> None:
    assert convert.chain(convert.chain_message(CHAIN)) == CHAIN
    lookup = Lookup(3, RUNS, 1)
    assert convert.lookup(convert.lookup_message(lookup)) == lookup
    lease = Lease(b"id", 3, 1.5, RUNS)
    assert convert.lease(convert.lease_message(lease)) == lease
    answers = [PutAnswer(index, status, "cpu") for index, status in enumerate(PutStatus)]
    assert convert_put.answers(convert_put.answer_messages(answers)) == answers
    apart = [PutAnswer(0, PutStatus.WANTED), *(PutAnswer(index, PutStatus.STORED, "cpu") for index in (1, 2, 3, 7, 9))]
    for alike, messages in ((False, 6), (True, 6)):
        assert len(convert_put.answer_messages(apart, alike=alike)) == messages
        assert convert_put.answers(convert_put.answer_messages(apart, alike=alike)) == apart
    assert len(convert_put.answer_messages(apart[:4], alike=True)) == 2
    assert convert_put.answers(convert_put.answer_messages(apart[:4], alike=True)) == apart[:4]
    with pytest.raises(InvalidArgument, match="alike"):
        convert_put.answers([wire.PutAnswer(status=wire.WANTED, alike=1 << 31)])
    figures = [Figure("a", (("x", "1"), ("y", "2")), 3), Figure("b", (), 0)]
    assert convert.figures(convert.figure_messages(figures)) == figures
    member = Member("store", "n", "h:1", "node", b"i", 3)
    assert convert.member(convert.member_message(member)) == member
    assert [PURPOSE.number(PURPOSE.word(number)) for number in range(2)] == [0, 1]
    assert [DURABILITY.number(DURABILITY.word(number)) for number in range(2)] == [0, 1]
    assert [VERDICT.number(VERDICT.word(number)) for number in range(3)] == [0, 1, 2]
    assert [PUT_STATUS.number(PUT_STATUS.word(number)) for number in range(1, 8)] == list(range(1, 8))


@pytest.mark.parametrize(
    "part",
    [
        WHOLE,
        Part(slots=range(3, 9)),
        Part(groups=range(0, 1)),
        Part(halves=frozenset({Half.K})),
        Part(range(1, 2), frozenset({Half.V}), range(2, 4)),
    ],
)
def test_parts_come_back_as_they_went(part: Part) -> None:
    assert convert.part(convert.part_message(part)) == part


def test_reservations_come_back_as_they_went() -> None:
    plans = (
        BlockPlan(KEYS[0], 4, small_spec().planes()),
        BlockPlan(KEYS[1], 4, small_spec().planes()),
        BlockPlan(KEYS[2], 3, small_spec().planes(3), short=True),
    )
    wanted = convert_put.Reservation(bytes(32), plans, Durability.DURABLE, 60.0, after=bytes(range(32)))
    message = convert_put.reserve_message(wanted)
    assert len(message.layouts) == 2
    assert convert_put.reservation(message) == wanted


CHAIN_FAULTS: list[tuple[wire.Chain, str]] = [
    (wire.Chain(fingerprint=bytes(31), keys=bytes(32)), "fingerprint"),
    (wire.Chain(fingerprint=bytes(32), keys=bytes(33)), "keys"),
    (wire.Chain(fingerprint=bytes(32), keys=bytes(64)), "repeat"),
    (wire.Chain(fingerprint=bytes(32), keys=bytes(32 * (convert.MOST_KEYS + 1))), "keys"),
]
PART_FAULTS: list[tuple[wire.Part, str]] = [
    (wire.Part(keys_only=True, values_only=True), "keys_only"),
    (wire.Part(first_slot=1), "first_slot"),
    (wire.Part(first_group=1 << 31, groups=1 << 31), "groups"),
]
RESERVE_FAULTS: list[tuple[Callable[[], wire.Reserve], str]] = [
    (lambda: reserve(fingerprint=b""), r"reserve\.fingerprint"),
    (lambda: reserve(after=b"short"), r"reserve\.after"),
    (lambda: reserve(durability=7), "durability"),
    (lambda: reserve(ttl_ms=1 << 63), "milliseconds"),
    (lambda: block(key=b"x" * 31), r"blocks\[1\]\.key"),
    (lambda: block(key=KEYS[0]), "twice"),
    (lambda: block(layout=1), r"blocks\[1\]\.layout"),
    (lambda: block(token_count=0), "token_count"),
    (lambda: block(token_count=1 << 30), "token_count"),
    (lambda: plane(slot=1 << 16), r"layouts\[0\]\.planes\[0\]"),
    (lambda: plane(half=3), "half"),
    (lambda: plane(half=1), "twice"),
    (lambda: plane(item_bytes=0), "item_bytes"),
    (lambda: plane(item_bytes=300), "item_bytes"),
    (lambda: plane(raw_bytes=0), "raw_bytes"),
    (lambda: plane(raw_bytes=1 << 63), "raw_bytes"),
    (lambda: plane(raw_bytes=1 << 32), "at most"),
    (lambda: wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout()]), "planes"),
    (lambda: many_planes(layouts=70_000, blocks=1), r"reserve\.layouts"),
    (lambda: many_planes(layouts=60_000, blocks=100), r"reserve\.blocks"),
]


@pytest.mark.parametrize(("message", "named"), CHAIN_FAULTS)
def test_a_wrong_chain_is_refused(message: wire.Chain, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        convert.chain(message)


@pytest.mark.parametrize(("message", "named"), PART_FAULTS)
def test_a_wrong_part_is_refused(message: wire.Part, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        convert.part(message)


@pytest.mark.parametrize(("message", "named"), RESERVE_FAULTS)
def test_a_wrong_reservation_is_refused(message: Callable[[], wire.Reserve], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        convert_put.reservation(message())


def test_other_wrong_values_are_refused() -> None:
    for call in (
        lambda: PURPOSE.word(9),
        lambda: convert.verdicts([0, 9]),
        lambda: convert.identifier(b"", "lease"),
        lambda: convert.identifier(bytes(65), "lease"),
        lambda: convert.lifetime(0.0),
        lambda: convert.lifetime(float("nan")),
        lambda: convert.milliseconds(1e12, "wait"),
        lambda: convert.renewal(None),
        lambda: convert.name("x" * 257, "tier"),
        lambda: convert.member(wire.Member(name="x" * 257)),
        lambda: convert.member(wire.Member(incarnation=bytes(65))),
        lambda: convert_put.commit(wire.Commit(blocks=[0, 0]), 2),
        lambda: convert_put.commit(wire.Commit(blocks=[2]), 2),
        lambda: convert.place(wire.Resume(key=b"other"), CHAIN),
        lambda: convert.place(wire.Resume(key=KEYS[1], offset=7), CHAIN),
        lambda: convert.place(wire.Resume(key=KEYS[1], offset=7, digest=bytes(9)), CHAIN),
        lambda: convert.part_message(Part(halves=frozenset({Half.OPAQUE}))),
    ):
        with pytest.raises(InvalidArgument):
            call()
    with pytest.raises(TooLarge):
        convert.chain_message(Chain(bytes(32), tuple(n.to_bytes(32, "big") for n in range(convert.MOST_KEYS + 1))))
    assert convert.place(wire.Resume(key=KEYS[1]), CHAIN) == (1, b"", 0)
    assert convert.place(wire.Resume(key=KEYS[1], digest=bytes(8), offset=7), CHAIN) == (1, bytes(8), 7)


MESSAGES = {
    wire.Chain: convert.chain,
    wire.Part: convert.part,
    wire.Reserve: convert_put.reservation,
    wire.Member: convert.member,
    wire.Commit: lambda message: convert_put.commit(message, 4),
}


@given(st.sampled_from(list(MESSAGES)), st.binary(max_size=300))
def test_any_message_converts_or_is_refused(kind: Any, data: bytes) -> None:
    try:
        message = kind.FromString(data)
    except Exception:
        return
    try:
        MESSAGES[kind](message)
    except InvalidArgument:
        pass
