"""Blocks written into an open put from the pages they lie in, coded on the device where it can be done there."""

from collections.abc import Mapping
from contextlib import closing

import torch

from cachestore.codecs.base import RAW
from cachestore.codecs.pages import encode_pages
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.page_moves import Mark
from cachestore.store.base import Put, PutStatus

CODED = 64 << 20
"""Bytes in pages that are coded at a time: what kernels make of them takes room on the device."""


def write_pages(put: Put, memory: PageMemory, slots: range, pages: Mapping[int, int], mark: Mark) -> None:
    """Writes these slots of blocks of the put, each from its page as it is after `mark`, as far as they are wanted."""
    answers = put.answers
    wanted = [(at, page) for at, page in pages.items() if answers[at].status is PutStatus.WANTED]
    if not wanted:
        return
    start, _ = memory.span(slots)
    if memory.kernels is None or put.codec.id == RAW:
        with closing(memory.moves.outgoing([page for _, page in wanted], slots, mark)) as planes:
            for (at, _), data in zip(wanted, planes, strict=True):
                put.write(at, start, data)
        return
    most = max(1, CODED // memory.nbytes(slots))
    for first in range(0, len(wanted), most):
        some = wanted[first : first + most]
        with memory.moves.beside(mark):
            there = torch.tensor([page for _, page in some], device=memory.device)
            blocks = encode_pages(put.codec, memory.spec, memory.pools(slots), there, method=memory.kernels)
        for (at, _), coded in zip(some, blocks, strict=True):
            put.write_encoded(at, start, *coded)
