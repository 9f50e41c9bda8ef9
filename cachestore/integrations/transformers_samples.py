"""transformers: a few numbers of each weight stand for it, so that it can be looked at with every call."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
import xxhash
from torch import Tensor

SAMPLES, ROWS, COLUMNS = 256, 16, 16
"""Of a weight so many numbers are looked at, spread over all of it: in so many rows so many columns."""

EXPERTS, OF_EXPERT = 1024, 4
"""Of weights that are stacked so many are looked at, which is all of any model's experts, each in so many places."""

GATHERED = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128))
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""What stands for numbers of so many bytes where torch cannot gather them, as those of float8."""


def sampled(weight: Tensor) -> Tensor:
    """The samples, [samples], on the weight's device; their bits where torch cannot gather numbers of that type."""
    bits = weight if weight.dtype in GATHERED else weight.view(BITS[weight.itemsize])
    return bits.take(_places(weight.shape, weight.device))


def digest(weights: Iterable[Tensor]) -> int:
    """Of samples of all of them, fetched at once from each device."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    whole = xxhash.xxh3_64()
    with torch.no_grad():
        for weight in weights:
            for piece in _pieces(weight) if wrapped(weight) else (weight,):
                by_kind[piece.device, piece.dtype].append(sampled(piece))
        for samples in by_kind.values():
            whole.update(torch.cat(samples).cpu().view(torch.uint8).numpy().data)
    return whole.intdigest()


def wrapped(weight: Tensor) -> bool:
    """Whether it is a tensor around others, as weights are that are quantised when loaded."""
    return hasattr(weight, "__tensor_flatten__")


def _pieces(weight: Any) -> Iterator[Tensor]:
    for name in weight.__tensor_flatten__()[0]:
        piece = getattr(weight, name)
        yield from _pieces(piece) if wrapped(piece) else (piece,)


@lru_cache(maxsize=1024)
def _places(shape: torch.Size, device: torch.device) -> Tensor:
    """Where the samples of a weight lie, counted in all its numbers."""
    if len(shape) < 2:
        return torch.tensor(_spread(shape.numel(), SAMPLES), dtype=torch.int64, device=device)
    stacked = len(shape) > 2
    rows = _spread(shape[0], EXPERTS if stacked else ROWS)
    size = shape[1:].numel()
    columns = _spread(size, max(OF_EXPERT, SAMPLES // max(len(rows), 1)) if stacked else COLUMNS)
    places = [row * size + column for row in rows for column in columns]
    return torch.tensor(places, dtype=torch.int64, device=device)


def _spread(length: int, most: int) -> list[int]:
    """Up to `most` places in a length, the first and the last among them."""
    most = min(length, most)
    return [at * (length - 1) // (most - 1) for at in range(most)] if most > 1 else [0] * most
