"""Golden vectors: what every installation must compute alike, or its keys would name other blocks.

Each vector is computed anew and compared with the bytes written down here. They never change; a new form gets a new
vector.
"""

from collections.abc import Callable
from typing import NamedTuple

from cachestore.block import Attention, BlockSpec, OpaqueSpec, Slot
from cachestore.hashing import chain, fingerprint, namespace_id, opaque_chain, tail_key
from cachestore.plane_table import table_of
from cachestore.seal import Header

SPEC = BlockSpec(
    model="golden/model",
    revision="0123456789abcdef",
    dtype="bfloat16",
    slots=(Slot(4, 64, 64), Slot(4, 64, 64, Attention.SLIDING, 128)),
    head_groups=2,
    block_tokens=16,
    rotary='{"rope_theta":10000.0,"rope_type":"default"}',
    adapter="golden/adapter",
    adapter_revision="7",
)
OPAQUE = OpaqueSpec("engine", "1.0", "golden/model", "0123456789abcdef", "bfloat16", "layout", 0, 2, "sha256")
TOKENS = tuple(range(1000, 1040))


def _header() -> bytes:
    keys = chain(SPEC, TOKENS)
    table = table_of(SPEC.planes())
    return Header(namespace_id("golden"), keys.keys[0], keys.fingerprint, 16, table, bytes(range(16)), 9).pack()


class Vector(NamedTuple):
    """One computation and the hex digits it must give."""

    name: str
    compute: Callable[[], bytes]
    expected: str


VECTORS = (
    Vector(
        "fingerprint", lambda: fingerprint(SPEC), "db8c20e9145c4c9826629ee6eddde81cac2ef5828f1320da303e5636dad8fb7e"
    ),
    Vector(
        "first key",
        lambda: chain(SPEC, TOKENS).keys[0],
        "9b4d829714e5eafd04672b4c07b875a915721a2524c23eee6abcb4d6c6d8e3d5",
    ),
    Vector(
        "second key",
        lambda: chain(SPEC, TOKENS).keys[1],
        "fd74f4c82200eccc777e45adfa0069ffa4464242fc490e89de77ff718721e556",
    ),
    Vector(
        "key with extras",
        lambda: chain(SPEC, TOKENS, {0: (b"image",)}).keys[1],
        "5472544d69fe3d4d72647aa7df9a62ead6c1423bd50536c5f3a9ea09cf961583",
    ),
    Vector(
        "tail key",
        lambda: tail_key(SPEC, chain(SPEC, TOKENS), TOKENS[32:], b"salt"),
        "cbafcf735dd00437b943efde9b8a0cbca78984c71168feb95169f9f391513aab",
    ),
    Vector(
        "opaque fingerprint",
        lambda: fingerprint(OPAQUE),
        "83c13e2adf6c652076b49f8c552cd5d62b9d86821a6354820da0872739a7ca76",
    ),
    Vector(
        "opaque key",
        lambda: opaque_chain(OPAQUE, [b"engine key"]).keys[0],
        "e203d205ef42a595bd63e830020dba9d890a8ff8c0ceb25ac18a510c99829f1d",
    ),
    Vector(
        "namespace id",
        lambda: namespace_id("default"),
        "88f6cf8f691522c99e9231574184ba748ff8c1cac8485261782ca232f769b3af",
    ),
    Vector("header checksum", lambda: _header()[-8:], "2626bd84c9c74444"),
)


def wrong() -> list[str]:
    """The names of the vectors that this installation computes otherwise; empty when all is well."""
    return [vector.name for vector in VECTORS if vector.compute().hex() != vector.expected]
