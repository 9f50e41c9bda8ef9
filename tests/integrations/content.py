"""Recognisable KV: what a model would compute for a token depends on every token up to it, and so do these bits."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

SEED = 0x9E3779B97F4A7C15


def prefixes(tokens: Iterable[int], last: int = SEED) -> np.ndarray:
    """A number for each token that all tokens up to it decide, as splitmix64 mixes them; `last` is that before them."""
    numbers, state = [], last
    for token in tokens:
        state = (state ^ (token + 0x632BE59BD9B4E019)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
        numbers.append(state)
    return np.array(numbers, dtype=np.uint64)


def content(layers: int, width: int, numbers: np.ndarray) -> Tensor:
    """`[layers, tokens, width]` of int16, told apart in every element's bits; finite as bfloat16 and float16."""
    salt = np.arange(layers * width, dtype=np.uint64).reshape(layers, 1, width) * np.uint64(0x94D049BB133111EB)
    with np.errstate(over="ignore"):
        mixed = (numbers[None, :, None] ^ salt) * np.uint64(0xBF58476D1CE4E5B9)
    return torch.from_numpy(((mixed >> np.uint64(40)) & np.uint64(0x3FFF)).astype(np.int16))
