"""All that serving launches on a device, launched once before it begins.

A kernel is compiled when it is first launched, which takes seconds. In a request's path all others would wait for it,
and whoever listens to the loop would take it for one that hangs.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product

import torch

from cachestore.codecs.entropy import Entropy
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.pages import decode_pages, encode_pages
from cachestore.engine.drawing import Draw, draw
from cachestore.engine.ragged import Batch, Row
from cachestore.engine.runner import Runner
from cachestore.engine.sampling import Sampling
from cachestore.tiers.gpu_blocks import page_checksums

MOVED = 4
"""Pages that are moved at a time, besides one alone."""


@dataclass(frozen=True)
class Warming:
    """Launches what steps of `chunk_tokens` tokens of prompts and of up to `max_batch` sequences launch, and what their
    pages go through: moves, codecs, checksums. Nothing where no kernels are used."""

    runner: Runner
    chunk_tokens: int
    max_batch: int

    def run(self) -> None:
        """Takes until all is compiled. Before the first sequence; of pages and prefix index nothing is left changed."""
        memory, pool = self.runner.memory, self.runner.pool
        if memory.kernels is None:
            return
        pages = pool.take(min(MOVED, pool.available))
        try:
            with memory.moves.here():
                for rows in self._steps(pages[0]):
                    self._compute(rows)
                for some in (pages[:1], pages):
                    self._code(some)
                    self._move(some)
                for page in pages:
                    memory.zero(page)
                memory.moves.mark().synchronize()
        finally:
            pool.release(pages)

    def _steps(self, page: int) -> Iterator[list[Row]]:
        """Batches of all kinds and sizes. All they see lies in one page, so that they may see as much as there is."""
        size = self.runner.spec.block_tokens
        longest = min(self.runner.model.max_tokens, self.runner.pool.pages * size)

        def row(tokens: int, end: int) -> Row:
            return Row([0] * tokens, end - tokens, [page] * -(-end // size))

        for rows, end in product(_doubled(1, self.max_batch), _doubled(size, longest)):
            yield [row(1, end)] * rows
        chunk = min(self.chunk_tokens, longest)
        few = row(min(3, chunk), longest)
        yield from ([row(chunk, chunk)], [few], [few, row(1, longest), row(chunk, longest)])

    def _compute(self, rows: Sequence[Row]) -> None:
        memory = self.runner.memory
        batch = Batch(rows, memory.block_tokens, memory.dtype, memory.device)
        logits = self.runner.model.forward(batch, memory, batch.last)
        draw(logits, [Draw(Sampling(), 0)] * len(rows))

    def _code(self, pages: Sequence[int]) -> None:
        """In the forms that readers and writers of this spec may meet; those of codecs without loss are one."""
        memory, spec = self.runner.memory, self.runner.spec
        pools = memory.pools(range(len(spec.slots)))
        there = torch.tensor(pages, device=memory.device)
        for codec in (codec_for(spec), Entropy()):
            if codec is not None:
                coded = encode_pages(codec, spec, pools, there, method=memory.kernels)
                decode_pages(spec, pools, there, coded, method=memory.kernels)
        page_checksums(memory.page(pages[0]), [plane.raw_bytes for plane in spec.planes()], memory.kernels)

    def _move(self, pages: Sequence[int]) -> None:
        """Out, whole and slot by slot, and in."""
        moves, slots = self.runner.memory.moves, len(self.runner.spec.slots)
        for some in (range(slots), *(range(at, at + 1) for at in range(slots))):
            with closing(moves.outgoing(pages, some, moves.mark())) as planes:
                for _ in planes:
                    pass
        incoming = moves.incoming(pages, moves.mark())
        for _ in incoming.into(0, min(len(pages), incoming.most)):
            incoming.came()
        incoming.settle()


def _doubled(first: int, last: int) -> list[int]:
    """`first`, twice that and so on, and `last`."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]
