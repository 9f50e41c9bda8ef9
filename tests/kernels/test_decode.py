"""Decode attention: fused against the oracle, the oracle against torch's own attention."""

from itertools import product
from math import ceil

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from cachestore_kernels.attention.decode import Scales, decode
from cachestore_kernels.attention.decode.fused import fewest_splits
from cachestore_kernels.quant import FORMS, gather_quantised
from tests.kernels.paged_kv import TOLERANCE, Case, queries, sequences

FAST = [
    (Case(), 2),
    (Case((39, 7), heads=6, kv_heads=1, dim=80, page_tokens=5, layout="tokens", dtype=torch.float32, window=9), 3),
    (Case((64, 17), heads=3, kv_heads=3, dim=32, value_dim=48, layout="joined", soft_cap=2.0, scale=0.3), 1),
]
SLOW = [
    *((Case((1, 15, 16, 17), page_tokens=16, window=window), splits) for window in (1, 16, 40) for splits in (1, 4)),
    *((Case((100, 257), heads=heads, kv_heads=2, dim=dim), 5) for heads, dim in ((2, 16), (34, 128), (8, 256))),
    *((Case((200, 70), layout=layout, page_tokens=64), None) for layout in ("heads", "tokens", "joined")),
    *((Case((300, 129), page_tokens=tokens, window=window), 3) for tokens in (128, 96) for window in (None, 100)),
    (Case((1000, 3, 999), dim=128, dtype=torch.bfloat16, heads=16), 4),
    (Case((40, 130), dim=96, dtype=torch.bfloat16, window=33, soft_cap=5.0), None),
    (Case((0, 0)), 2),
    (Case(()), 2),
]
table = pytest.mark.parametrize(
    ("case", "splits"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)


@table
def test_fused_equals_naive(case: Case, splits: int | None, device: str, poisoned_memory: None) -> None:
    if case.dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("the interpreter multiplies bfloat16 wrongly")
    kv, query = sequences(case, device), queries(case, len(case.lengths), device)
    where = query, kv.keys, kv.values, kv.table, kv.lengths
    expected, expected_sums = decode(*where, **case.options, method="naive")
    result, sums = decode(*where, **case.options, splits=splits, method="fused")
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(sums, expected_sums, atol=tolerance, rtol=tolerance)
    # a hint changes nothing
    again, _ = decode(*where, **case.options, splits=splits, prefetch=True, method="fused")
    assert torch.equal(again, result)


HALF, BRAIN = torch.float16, torch.bfloat16
QUANTISED = [(f, g, tokens, dim, HALF) for f, (g, tokens, dim) in product(FORMS, ((32, 64, 80), (64, 16, 64)))]
QUANTISED += [(form, 128, 64, 128, dtype) for form in FORMS for dtype in (HALF, BRAIN)]
QUANTISED += [("int4", 32, 16, 20, HALF)]  # rows of no whole words


@pytest.mark.parametrize(
    ("form", "group", "tokens", "dim", "dtype"),
    [pytest.param(*row, marks=[] if row[1:4] == (32, 64, 80) else pytest.mark.slow) for row in QUANTISED],
)
def test_quantised_pages(
    form: str, group: int, tokens: int, dim: int, dtype: torch.dtype, device: str, poisoned_memory: None
) -> None:
    if dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("the interpreter multiplies bfloat16 wrongly")
    case = Case((tokens + 9, 20), dim=dim, page_tokens=tokens, window=tokens, dtype=dtype)
    kv, query = sequences(case, device), queries(case, 2, device)
    every = torch.arange(len(kv.keys), device=device)
    pages = [kv.keys.nan_to_num(0)], [kv.values.nan_to_num(0)], every
    codes = gather_quantised(*pages, form=form, group=group, method="naive")
    pools = codes.codes[:, 0, 0], codes.codes[:, 0, 1], kv.table, kv.lengths
    options = {**case.options, "scales": Scales.of_slot(codes, 0)}
    expected, expected_sums = decode(query, *pools, **options, method="naive")
    result, sums = decode(query, *pools, **options, splits=2, method="fused")
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(sums, expected_sums, atol=tolerance, rtol=tolerance)
    exact, _ = decode(query, kv.keys, kv.values, kv.table, kv.lengths, **case.options, method="naive")
    assert (expected - exact).abs().max() < {"int8": 0.05, "e4m3": 0.2, "e5m2": 0.4, "int4": 0.4}[form]


@pytest.mark.parametrize("window", [None, 7])
def test_naive_is_attention(window: int | None) -> None:
    case = Case((20,), heads=6, kv_heads=2, dim=16, dtype=torch.float32, window=window)
    kv, query = sequences(case, "cpu"), queries(case, 1, "cpu")
    first = 20 - (window or 20)
    keys, values = (
        pool[kv.table[0, :2].long()].transpose(0, 1).flatten(1, 2)[:, first:20].repeat_interleave(3, 0)
        for pool in (kv.keys, kv.values)
    )
    expected = scaled_dot_product_attention(query.transpose(0, 1), keys, values).transpose(0, 1)
    result, _ = decode(query, kv.keys, kv.values, kv.table, kv.lengths, window=window)
    torch.testing.assert_close(result, expected)


def test_two_parts_join_by_their_sums() -> None:
    whole = Case((48,), dtype=torch.float32)
    kv, query = sequences(whole, "cpu"), queries(whole, 1, "cpu")
    expected, _ = decode(query, kv.keys, kv.values, kv.table, kv.lengths)
    parts = [
        decode(query, kv.keys, kv.values, table.contiguous(), torch.tensor([count], dtype=torch.int32))
        for table, count in ((kv.table[:, :1], 16), (kv.table[:, 1:], 32))
    ]
    weights = torch.stack([sums for _, sums in parts]).softmax(0)[..., None]
    joined = sum(weight * result for weight, (result, _) in zip(weights, parts, strict=True))
    torch.testing.assert_close(joined, expected)


@pytest.mark.parametrize(("tokens", "length"), [(16, 40), (64, 180)])
def test_pages_outside_the_pool(tokens: int, length: int, device: str) -> None:
    case = Case((length,), dtype=torch.float32, page_tokens=tokens)
    kv, query = sequences(case, device), queries(case, 1, device)
    kv.table[0, 1] = -5
    where = query, kv.keys, kv.values, kv.table, kv.lengths
    with pytest.raises(ValueError, match="table: sequence 0 names pages outside"):
        decode(*where, method="naive")
    result, _ = decode(*where, splits=1, method="fused")
    seen = kv.table[:, [0, 2]].contiguous()
    expected, _ = decode(query, kv.keys, kv.values, seen, kv.lengths - tokens, method="naive")
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=2e-5)
    with pytest.raises(ValueError, match="lengths: 500 of sequence 0"):
        decode(*where[:4], torch.full_like(kv.lengths, 500), method="naive")


@pytest.mark.parametrize("programs", [1, 8, 64, 256, 400, 530, 1000, 5000])
def test_splits_fill_the_device(programs: int) -> None:
    places, most = 396, 64
    found = fewest_splits(programs, most, places)
    filled = {splits: programs * splits / places / ceil(programs * splits / places) for splits in range(1, most + 1)}
    assert filled[found] >= 0.9 * max(filled.values())
    assert all(filled[splits] < 0.9 * max(filled.values()) for splits in range(1, found))


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (TypeError, "query: float16", dict(query=torch.zeros(1, 4, 64, dtype=torch.int8))),
        (ValueError, r"query: \[rows, heads, head_dim\]", dict(query=torch.zeros(4, 64))),
        (ValueError, "query: 3 heads are no multiple", dict(query=torch.zeros(1, 3, 64).half())),
        (ValueError, "query: one for each of 1", dict(query=torch.zeros(2, 4, 64).half())),
        (ValueError, "keys: head_dim 64 differs", dict(query=torch.zeros(1, 4, 32).half())),
        (TypeError, "keys: the query's dtype", dict(query=torch.zeros(1, 4, 64))),
        (ValueError, "keys: a view", dict(keys=torch.zeros(3, 2, 64, 16).half().mT)),
        (ValueError, r"values: \[3, 1, 16\] differ", dict(values=torch.zeros(3, 1, 16, 64).half())),
        (TypeError, r"table: int32.*table.int\(\)", dict(table=torch.zeros(1, 3).long())),
        (ValueError, "table: 2 contiguous", dict(table=torch.zeros(2, 3).int())),
        (TypeError, "lengths: int32", dict(lengths=torch.zeros(1))),
        (ValueError, "lengths: on meta", dict(lengths=torch.zeros(1, device="meta").int())),
        (ValueError, "window: 1 or more", dict(window=0)),
        (ValueError, "soft_cap: more than 0", dict(soft_cap=0.0)),
        (ValueError, "splits: 1 to 256", dict(splits=0)),
        (ValueError, "method: 'naive'", dict(method="quick")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(kind: type[Exception], message: str, arguments: dict[str, object]) -> None:
    pool = torch.zeros(3, 2, 16, 64).half()
    good: dict[str, object] = dict(query=torch.zeros(1, 4, 64).half(), keys=pool, values=pool)
    good |= dict(table=torch.zeros(1, 3).int(), lengths=torch.ones(1).int())
    with pytest.raises(kind, match=message):
        decode(**{**good, **arguments})  # type: ignore[arg-type]


def test_scales_that_do_not_fit() -> None:
    pool = torch.zeros(3, 2, 16, 64).half()
    codes = gather_quantised([pool], [pool], torch.arange(3), form="int8")
    scales = Scales.of_slot(codes, 0)
    good = (codes.codes[:, 0, 0], codes.codes[:, 0, 1], torch.zeros(1, 3).int(), torch.ones(1).int())
    query = torch.zeros(1, 4, 64).half()
    decode(query, *good, scales=scales)
    for wrong, message in (
        (scales._replace(form="e4m3"), "e4m3 has no zeros"),
        (scales._replace(key_zeros=None), "int8 has zeros; pass them"),
        (scales._replace(keys=scales.keys.float()), "scales.keys: float16"),
        (scales._replace(group=48), "group: one of"),
        (scales._replace(form="int4"), "keys: head_dim 128 of int4"),
    ):
        with pytest.raises(ValueError, match=message):
            decode(query, *good, scales=wrong)
    with pytest.raises(TypeError, match="keys, values: uint8"):
        decode(query, pool, pool, *good[2:], scales=scales)
    with pytest.raises(ValueError, match="a power of two"):
        decode(query, good[0][:, :, :15], good[1][:, :, :15], *good[2:], scales=scales)
