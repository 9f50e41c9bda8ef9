"""Prefill attention: fused against the oracle, the oracle against decode, one query after the other."""

import pytest
import torch

from cachestore_kernels.attention.decode import decode
from cachestore_kernels.attention.prefill import prefill
from tests.kernels.paged_kv import TOLERANCE, Case, queries, sequences

FAST = [
    (Case((5, 40, 33)), (3, 17, 0)),
    (
        Case((39, 7), heads=6, kv_heads=2, dim=40, page_tokens=5, layout="tokens", dtype=torch.float32, window=9),
        (20, 7),
    ),
    (Case((20,), heads=3, kv_heads=3, dim=32, value_dim=48, layout="joined", soft_cap=2.0, scale=0.3), (20,)),
]
SLOW = [
    *((Case((100, 65), window=window), (33, 65)) for window in (1, 16, 64)),
    *((Case((70, 130), heads=heads, kv_heads=2, dim=dim), (9, 64)) for heads, dim in ((2, 16), (10, 128), (4, 256))),
    (Case((64, 0, 1), dim=128), (64, 0, 1)),
    *((Case((300, 129), page_tokens=tokens, window=window), (20, 40)) for tokens in (128, 96) for window in (None, 90)),
    (Case((300, 257), dim=128, heads=16, dtype=torch.bfloat16), (257, 100)),
    (Case((300, 257), dim=80, dtype=torch.bfloat16, window=100, soft_cap=5.0), (257, 100)),
    (Case((8,)), (0,)),
]


@pytest.mark.parametrize(
    ("case", "rows"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_fused_equals_naive(case: Case, rows: tuple[int, ...], device: str, poisoned_memory: None) -> None:
    if case.dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("the interpreter multiplies bfloat16 wrongly")
    kv, query = sequences(case, device), queries(case, sum(rows), device)
    starts = torch.tensor([0, *rows]).cumsum(0).int().to(device)
    where = query, kv.keys, kv.values, kv.table, kv.lengths, starts, max(rows)
    expected = prefill(*where, **case.options, method="naive")
    result = prefill(*where, **case.options, method="fused")
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("window", [None, 5])
def test_naive_is_decode_of_each_row(window: int | None) -> None:
    case = Case((21,), dtype=torch.float32, window=window)
    kv, query = sequences(case, "cpu"), queries(case, 9, "cpu")
    starts = torch.tensor([0, 9], dtype=torch.int32)
    result = prefill(query, kv.keys, kv.values, kv.table, kv.lengths, starts, 9, window=window)
    for row in range(9):
        length = torch.tensor([13 + row], dtype=torch.int32)
        expected, _ = decode(query[row : row + 1], kv.keys, kv.values, kv.table, length, window=window)
        torch.testing.assert_close(result[row : row + 1], expected)


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (TypeError, r"starts: int32.*starts.int\(\)", dict(starts=torch.tensor([0, 2]))),
        (ValueError, r"starts: \[2\] is needed", dict(starts=torch.tensor([0]).int())),
        (ValueError, "starts: from 0 to 2 rows", dict(starts=torch.tensor([0, 1]).int())),
        (ValueError, "starts: from 0 to 2 rows", dict(longest=1)),
        (ValueError, "starts: from 0 to 2 rows", dict(lengths=torch.tensor([1]).int())),
        (ValueError, "longest: 0 rows or more", dict(longest=-1)),
        (ValueError, "lengths: 99 of sequence 0", dict(lengths=torch.tensor([99]).int())),
        (ValueError, "query: head_dim up to 256", dict(values=torch.zeros(3, 2, 16, 320).half())),
    ],
)
def test_wrong_arguments(kind: type[Exception], message: str, arguments: dict[str, object]) -> None:
    pool = torch.zeros(3, 2, 16, 64).half()
    good: dict[str, object] = dict(query=torch.zeros(2, 4, 64).half(), keys=pool, values=pool)
    good |= dict(table=torch.zeros(1, 3).int(), lengths=torch.tensor([9]).int())
    good |= dict(starts=torch.tensor([0, 2]).int(), longest=2)
    with pytest.raises(kind, match=message):
        prefill(**{**good, **arguments})  # type: ignore[arg-type]
