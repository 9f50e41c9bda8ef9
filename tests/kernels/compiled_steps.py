"""Steps of a loop that serves, as calls to compile: what changes from one to the next must not compile anew."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

import torch

from cachestore_kernels.attention.decode import decode
from cachestore_kernels.attention.prefill import prefill

KEYS, VALUES = torch.zeros(33, 2, 64, 128).bfloat16(), torch.zeros(33, 2, 64, 128).bfloat16()


def steps(chunks: bool) -> None:
    """Sequences with one token each, or in chunks, behind others in the step's tensors."""
    for rows, width in product((1, 2, 5, 16), (1, 2, 7, 16, 33)):
        tables, lengths = torch.zeros(rows + 3, width).int(), torch.ones(rows + 3).int()
        query = torch.zeros(rows * 5, 16, 128).bfloat16()
        where = KEYS, VALUES, tables[3:], lengths[3:]
        if chunks:
            starts = torch.arange(0, 5 * rows + 1, 5).int()
            prefill(query, *where, starts, 5)
        else:
            for splits in (2, 3, 16, 33):
                decode(query[:rows], *where, splits=splits)


CALLS: Mapping[str, Callable[[], None]] = {"decode steps": partial(steps, False), "prefill steps": partial(steps, True)}
