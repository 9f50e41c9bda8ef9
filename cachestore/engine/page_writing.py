"""Blocks written into an open put from the pages they lie in, coded on the device where it can be done there."""

from collections.abc import Mapping

import torch

from cachestore.block import Half
from cachestore.codecs.base import RAW
from cachestore.codecs.pages import Pools, encode_pages
from cachestore.engine.page_memory import PageMemory
from cachestore.store.base import Put, PutStatus


def pools_of(memory: PageMemory, slots: range) -> Pools:
    """The halves that these slots have."""
    return {
        (slot, half): memory.half(slot, half)
        for slot in slots
        for half in (Half.K, Half.V)
        if half is Half.K or memory.spec.slots[slot].value_dim
    }


def write_pages(put: Put, memory: PageMemory, slots: range, pages: Mapping[int, int]) -> None:
    """Writes these slots of blocks of the put, each from its page, as far as they are wanted."""
    answers = put.answers
    wanted = {at: page for at, page in pages.items() if answers[at].status is PutStatus.WANTED}
    start, end = memory.span(slots)
    if memory.kernels is None or put.codec.id == RAW:
        for at, page in wanted.items():
            put.write(at, start, memory.planes(page, start, end))
    elif wanted:
        there = torch.tensor(list(wanted.values()), device=memory.device)
        blocks = encode_pages(put.codec, memory.spec, pools_of(memory, slots), there, method=memory.kernels)
        for at, planes in zip(wanted, blocks, strict=True):
            put.write_encoded(at, start, *planes)
