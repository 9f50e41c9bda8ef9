"""Keys are defined by bytes: computed here a second time from the definition, and frozen as literals."""

import json
import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Sequence
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.block import Attention, BlockSpec, OpaqueSpec, Slot
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, chain, extend, fingerprint, namespace_id, opaque_chain, tail_key

SPEC = BlockSpec(
    model="org/model",
    revision="abc123",
    dtype="bfloat16",
    slots=(Slot(8, 128, 128), Slot(8, 128, 64, Attention.SLIDING, 4096)),
    head_groups=4,
    block_tokens=4,
    weights="fp8",
    rotary='{"theta":10000}',
    rotary_regime="short",
    adapter="lora",
    adapter_revision="3",
    recipe="exact-ish",
)
OPAQUE = OpaqueSpec("engine", "1.2", "org/model", "abc123", "bfloat16", "NHD", 1, 4, "sha256", "--hash")
TOKENS = [0, 1, 2, 3, 2**32 - 1, 5, 6, 7, 8]


def frame(tag: int, value: bytes) -> bytes:
    return struct.pack("<BI", tag, len(value)) + value


def digest(domain: str, *frames: bytes) -> bytes:
    return sha256(frame(1, domain.encode()) + b"".join(frames)).digest()


def words(*values: object) -> list[bytes]:
    return [frame(2, str(value).encode("utf-8")) for value in values]


def spec_by_definition(spec: BlockSpec) -> bytes:
    top = words(
        spec.model, spec.revision, spec.dtype, spec.weights, spec.head_groups, spec.block_tokens,
        spec.rotary, spec.rotary_regime, spec.adapter, spec.adapter_revision, spec.recipe,
    )  # fmt: skip
    slots = [
        frame(3, b"".join(words(s.kv_heads, s.key_dim, s.value_dim, str(s.attention), s.window))) for s in spec.slots
    ]
    return digest("kv-cachestore/spec/1", *top, *slots)


def key_by_definition(tag: int, parent: bytes, tokens: Sequence[int], *extras: bytes) -> bytes:
    packed = struct.pack(f"<{len(tokens)}I", *tokens)
    more = [frame(7, extra) for extra in extras]
    return digest("kv-cachestore/key/1", frame(tag, parent), frame(6, packed), *more)


def test_the_fingerprint_follows_its_definition() -> None:
    assert fingerprint(SPEC) == spec_by_definition(SPEC)
    assert fingerprint(SPEC).hex() == "96f6e97b4d21d5f51af57d03940d35e2c99401b9d0a9a1409fca7a585867c340"
    by_hand = digest(
        "kv-cachestore/opaque-spec/1",
        *words("engine", "1.2", "org/model", "abc123", "bfloat16", "NHD", 1, 4, "sha256"),
    )
    assert fingerprint(OPAQUE) == by_hand
    assert by_hand.hex() == "744361cc7c0de842c47399d2ba5195bbe341a1e166b46cf10b5dcbb753c31e94"


def test_keys_follow_their_definition() -> None:
    root = spec_by_definition(SPEC)
    first = key_by_definition(4, root, TOKENS[:4], b"image", b"mask")
    second = key_by_definition(5, first, TOKENS[4:8])
    found = chain(SPEC, TOKENS, {0: (b"image", b"mask")})
    assert found == Chain(root, (first, second))
    assert second.hex() == "1df88b2d4c4c005cd6652f32ff95ff3efb58437ffffa5bd760fa87c6c1465e1e"
    tail = tail_key(SPEC, found, [8], b"salt")
    assert tail == key_by_definition(5, second, [8], b"salt")
    assert tail_key(SPEC, chain(SPEC, []), [8], b"salt") == key_by_definition(4, root, [8], b"salt")
    page = opaque_chain(OPAQUE, [b"page"]).keys[0]
    assert page == digest("kv-cachestore/opaque-key/1", frame(4, fingerprint(OPAQUE)), frame(8, b"page"))
    assert page.hex() == "4fadb90f5fbd95a58e2eb968f66a66e28c81a278cec543068282c382be467338"


def test_namespaces_have_ids_of_their_own() -> None:
    assert namespace_id("tenant") == digest("kv-cachestore/namespace/1", *words("tenant"))
    assert namespace_id("tenant").hex() == "483102ac8bcfacc421485ed6195989b54621ff22586b80a242033cfc102941d5"
    odd = ["a", "A", "a ", "a/b", "*", "..", "a\n", "a\0", "ä", "a\u0308", "{a}"]
    assert len({namespace_id(name) for name in odd}) == len(odd)
    for wrong in ("", "\ud800"):
        with pytest.raises(InvalidArgument):
            namespace_id(wrong)


def changed(value: object) -> Any:
    if isinstance(value, str):
        return "float16" if value == "bfloat16" else "sha512" if value == "sha256" else value + "x"
    return value + 4 if isinstance(value, int) else value


@pytest.mark.parametrize(
    "name", [field.name for field in fields(BlockSpec) if field.name not in ("slots", "head_groups")]
)
def test_every_field_of_a_spec_counts(name: str) -> None:
    assert fingerprint(replace(SPEC, **{name: changed(getattr(SPEC, name))})) != fingerprint(SPEC)


@pytest.mark.parametrize("name", [field.name for field in fields(OpaqueSpec) if field.name not in ("rank", "setting")])
def test_every_field_of_an_opaque_spec_counts(name: str) -> None:
    assert fingerprint(replace(OPAQUE, **{name: changed(getattr(OPAQUE, name))})) != fingerprint(OPAQUE)


def test_slots_groups_and_ranks_count() -> None:
    full, sliding = SPEC.slots
    others = [
        replace(SPEC, head_groups=2),
        replace(SPEC, slots=(full,)),
        replace(SPEC, slots=(sliding, full)),
        replace(SPEC, slots=(full, full)),
        replace(SPEC, slots=(full, replace(sliding, window=4097))),
        replace(SPEC, slots=(full, replace(sliding, attention=Attention.CHUNKED))),
        replace(SPEC, slots=(replace(full, kv_heads=16), sliding)),
        replace(SPEC, slots=(replace(full, key_dim=64), sliding)),
        replace(SPEC, slots=(replace(full, value_dim=0), sliding)),
        # text moved between neighbouring fields, as an unframed hash would not notice
        replace(SPEC, adapter="lor", adapter_revision="a3"),
    ]
    prints = {fingerprint(spec) for spec in [SPEC, *others]}
    assert len(prints) == len(others) + 1
    assert fingerprint(replace(OPAQUE, rank=2)) != fingerprint(OPAQUE)
    # which option chose the hash is a hint for messages, not part of what the bytes are
    assert fingerprint(replace(OPAQUE, setting="other")) == fingerprint(OPAQUE)


tokens_strategy = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(tokens_strategy, tokens_strategy)
def test_equal_prefixes_and_only_these_share_keys(one: list[int], two: list[int]) -> None:
    shared = 0
    while (
        shared < min(len(one), len(two)) // 4 and one[4 * shared : 4 * shared + 4] == two[4 * shared : 4 * shared + 4]
    ):
        shared += 1
    first, second = chain(SPEC, one), chain(SPEC, two)
    assert len(first) == len(one) // 4
    assert first.keys[:shared] == second.keys[:shared]
    assert not set(first.keys[shared:]) & set(second.keys[shared:])
    assert chain(SPEC, one + two).keys[: len(first)] == first.keys


@given(tokens_strategy)
def test_the_type_that_carries_tokens_does_not_matter(tokens: list[int]) -> None:
    wanted = chain(SPEC, tokens)
    for dtype in (np.uint32, np.int64, ">u8"):
        assert chain(SPEC, np.array(tokens, dtype=dtype)) == wanted
    assert chain(SPEC, tuple(tokens)) == wanted
    assert chain(SPEC, np.array([tokens, tokens], dtype=np.uint32, order="F")[0]) == wanted


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40))
def test_tokens_may_come_as_their_bytes(tokens: list[int]) -> None:
    wanted = chain(SPEC, tokens)
    packed = struct.pack(f"<{len(tokens)}i", *tokens)
    for given_as in (packed, bytearray(packed), memoryview(packed), memoryview(array("i", tokens))):
        assert chain(SPEC, given_as) == wanted
    assert chain(SPEC, np.array(tokens, dtype=np.int32)) == wanted
    if 0 < len(tokens) < SPEC.block_tokens:
        assert tail_key(SPEC, wanted, packed, b"s") == tail_key(SPEC, wanted, tokens, b"s")


def test_extras_change_their_block_and_all_behind_it() -> None:
    tokens = list(range(16))
    plain = chain(SPEC, tokens).keys
    with_image = chain(SPEC, tokens, {2: (b"image",)}).keys
    assert with_image[:2] == plain[:2]
    assert not set(with_image[2:]) & set(plain)
    several = [(b"ab",), (b"a", b"b"), (b"b", b"a"), (b"",), ()]
    assert len({chain(SPEC, tokens, {0: extras}).keys[0] for extras in several}) == len(several)
    # content of a block that is not full yet is named when it is
    assert chain(SPEC, tokens[:8], {2: (b"image",)}).keys == plain[:2]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.integers(0, 10))
def test_a_chain_extended_is_the_chain_of_all(tokens: list[int], blocks: int) -> None:
    extras = {0: (b"salt",), 3: (b"image", b"other"), 7: (b"last",)}
    whole = chain(SPEC, tokens, extras)
    known = whole.first(blocks)
    assert extend(SPEC, known, tokens[len(known) * SPEC.block_tokens :], extras) == whole


@pytest.mark.parametrize("extras", [{-1: (b"x",)}, {0: b"text"}, {0: ("text",)}, {0: (None,)}])
def test_extras_that_would_be_lost_are_refused(extras: Any) -> None:
    with pytest.raises(InvalidArgument, match="extras"):
        chain(SPEC, list(range(8)), extras)


def test_a_tail_belongs_to_its_request() -> None:
    full = chain(SPEC, list(range(4)))
    keys = {tail_key(SPEC, full, tokens, salt) for tokens in ([1], [1, 2], [2]) for salt in (b"a", b"b")}
    assert len(keys) == 6 and not keys & set(chain(SPEC, [0, 1, 2, 3, 1, 2, 3, 4]).keys)
    assert full.with_tail(min(keys)).keys == (*full.keys, min(keys))
    for tokens, salt in (([], b"a"), ([1, 2, 3, 4], b"a"), ([1], b"")):
        with pytest.raises(InvalidArgument):
            tail_key(SPEC, full, tokens, salt)


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 2, 3, -1],
        [1, 2, 3, 2**32],
        [1, 2, 3, 2**64],
        [1, -1, 2**63, 4],
        [1.0, 2.0, 3.0, 4.0],
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [[1, 2], [3], [4], [5]],
        ["1", "2", "3", "4"],
        "1234",
        b"12345",
        struct.pack("<4i", 1, 2, 3, -4),
        memoryview(bytes(16))[::2],
        memoryview(array("f", [1.0, 2.0, 3.0, 4.0])),
        [True, False, True, True],
        [None, 1, 2, 3],
        np.zeros((4, 1), dtype=np.int64),
        np.zeros(4, dtype=np.float32),
    ],
)
def test_what_is_no_list_of_tokens_is_refused(tokens: Any) -> None:
    with pytest.raises(InvalidArgument, match="tokens"):
        chain(SPEC, tokens)


def test_opaque_keys() -> None:
    keys = opaque_chain(OPAQUE, [b"a", b"b", bytes(32)]).keys
    assert len(set(keys)) == 3
    assert opaque_chain(OPAQUE, [b"b"]).keys == keys[1:2]
    assert opaque_chain(replace(OPAQUE, rank=0), [b"a"]).keys != keys[:1]
    with pytest.raises(InvalidArgument):
        opaque_chain(OPAQUE, [b"a", b""])
    for weak in ("builtin", "xxhash", "crc32", "", "SHA256"):
        with pytest.raises(InvalidArgument, match="--hash"):
            replace(OPAQUE, hash_algorithm=weak)


def test_chains_refuse_what_is_no_key() -> None:
    root = fingerprint(SPEC)
    for wrong in (b"", b"x" * 31, b"x" * 33, b"x" * 1_000_000):
        with pytest.raises(InvalidArgument, match="32 bytes"):
            Chain(root, (root, wrong))
        with pytest.raises(InvalidArgument, match="32 bytes"):
            Chain(wrong, ())
    with pytest.raises(InvalidArgument, match="repeat"):
        Chain(root, (root, root))
    keys = tuple(bytes([number]) * 32 for number in range(3))
    whole = Chain(root, keys)
    assert len(whole) == 3 and whole.first(2).keys + whole.behind(2).keys == keys
    assert whole.behind(7).keys == () and whole.first(7) == whole


_PROGRAM = """
import json
from cachestore.block import BlockSpec, Slot
from cachestore.hashing import chain, namespace_id
spec = BlockSpec("org/model", "abc123", "float16", (Slot(2, 8, 8),), 1, 4, recipe="r")
keys = chain(spec, range(64), {3: (b"image",)})
print(json.dumps([keys.fingerprint.hex(), [k.hex() for k in keys.keys], namespace_id("t").hex()]))
"""


def test_another_process_with_another_hash_seed_agrees() -> None:
    answers = []
    for seed in ("1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        ran = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, check=True)
        answers.append(json.loads(ran.stdout))
    spec = BlockSpec("org/model", "abc123", "float16", (Slot(2, 8, 8),), 1, 4, recipe="r")
    here = chain(spec, range(64), {3: (b"image",)})
    assert answers[0] == answers[1]
    assert answers[0] == [here.fingerprint.hex(), [key.hex() for key in here.keys], namespace_id("t").hex()]
