"""How a value becomes a code: to the bits of the oracle, at a fraction of the instructions.

What is divided is divided by way of a reciprocal and what that leaves over. Floats of one byte are made by the device's
own conversions, or by integer arithmetic, which every architecture has.
"""

from typing import Final

import triton
import triton.language as tl

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether these functions run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

_INTERPRETED: Final = tl.constexpr(INTERPRETED)


@triton.jit  # type: ignore[untyped-decorator]
def most(values: tl.tensor, AXIS: tl.constexpr) -> tl.tensor:
    """The largest along an axis; infinity or NaN where there is a NaN."""
    if _INTERPRETED:
        # it takes long over what it does not know
        result = tl.max(tl.where(values == values, values, float("inf")), AXIS, keep_dims=True)
    else:
        result = tl.reduce(values, AXIS, _larger, keep_dims=True)
    return result


@triton.jit  # type: ignore[untyped-decorator]
def _larger(one: tl.tensor, two: tl.tensor) -> tl.tensor:
    return tl.maximum(one, two, propagate_nan=tl.PropagateNan.ALL)


@triton.jit  # type: ignore[untyped-decorator]
def quotient(dividend: tl.tensor, divisor: tl.tensor, inverse: tl.tensor) -> tl.tensor:
    """`dividend` / `divisor` rounded to nearest, as IEEE division has it, at a fraction of what that takes.

    `divisor` has at most 11 bits, so that no quotient lies nearer to the middle between two floats than 2**-36 of it,
    and what this is off before it is rounded, even by a reciprocal off by some units in its last place, is far less.
    A zero keeps its sign. Below the normal floats, the last place may be another.
    """
    near = dividend * inverse
    over = _fused(near, divisor, dividend * -1.0)
    return _fused(over, inverse * -1.0, near)


@triton.jit  # type: ignore[untyped-decorator]
def _fused(a: tl.tensor, b: tl.tensor, c: tl.tensor) -> tl.tensor:
    """a · b + c, rounded once: the interpreter's own rounds twice."""
    if _INTERPRETED:
        result = (a.to(tl.float64) * b.to(tl.float64) + c.to(tl.float64)).to(tl.float32)
    else:
        result = tl.fma(a, tl.broadcast_to(b, a.shape), tl.broadcast_to(c, a.shape))
    return result


@triton.jit  # type: ignore[untyped-decorator]
def coded(steps: tl.tensor, FORM: tl.constexpr, CONVERTS: tl.constexpr) -> tl.tensor:
    """The codes nearest to `steps`, ties to even; of int4 two in a byte."""
    if FORM == "int4":
        low, high = tl.split(_rounded(steps).reshape(steps.shape[0], steps.shape[1] // 2, 2))
        codes = low | (high << 4)
    elif FORM == "int8":
        codes = _rounded(steps)
    elif CONVERTS:
        FLOAT: tl.constexpr = tl.float8e4nv if FORM == "e4m3" else tl.float8e5
        codes = steps.to(FLOAT).to(tl.uint8, bitcast=True)
    else:
        # bits of mantissa that go, exponent bias that goes, and the float beside which the format's least step is one
        DROP: tl.constexpr = 20 if FORM == "e4m3" else 21
        BIAS: tl.constexpr = 120 if FORM == "e4m3" else 112
        BESIDE: tl.constexpr = 16384.0 if FORM == "e4m3" else 128.0
        SMALLEST_NORMAL: tl.constexpr = 0.015625 if FORM == "e4m3" else 0.00006103515625
        bits = steps.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        normal = ((size + ((1 << (DROP - 1)) - 1) + ((size >> DROP) & 1)) >> DROP) - (BIAS << (23 - DROP))
        magnitude = tl.abs(steps)
        beside = tl.full(magnitude.shape, BESIDE, tl.float32)
        tiny = (magnitude + beside).to(tl.int32, bitcast=True) - beside.to(tl.int32, bitcast=True)
        codes = (tl.where(magnitude < SMALLEST_NORMAL, tiny, normal) | ((bits >> 24) & 0x80)).to(tl.uint8)
    return codes


@triton.jit  # type: ignore[untyped-decorator]
def _rounded(steps: tl.tensor) -> tl.tensor:
    """The integers from 0 to 255 nearest to `steps`: beside 2**23 a float has no room for a fraction."""
    return ((steps + 8388608.0).to(tl.int32, bitcast=True) & 0xFF).to(tl.uint8)


@triton.jit  # type: ignore[untyped-decorator]
def half_up(values: tl.tensor) -> tl.tensor:
    """`values`, none negative, as float16, rounded up."""
    half = values.to(tl.float16)
    above = (half.to(tl.int16, bitcast=True) + 1).to(tl.int16).to(tl.float16, bitcast=True)
    return tl.where(half.to(tl.float32) < values, above, half)


@triton.jit  # type: ignore[untyped-decorator]
def half_down(values: tl.tensor) -> tl.tensor:
    """`values` as float16, rounded down."""
    half = values.to(tl.float16)
    bits = half.to(tl.int16, bitcast=True)
    # below +0 comes the least negative number; else one nearer to zero for positives, one farther for negatives
    below = tl.where(bits == 0, -32767, tl.where(bits > 0, bits - 1, bits + 1)).to(tl.int16)
    return tl.where(half.to(tl.float32) > values, below.to(tl.float16, bitcast=True), half)
