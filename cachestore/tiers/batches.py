"""Blocks in groups, so that what a put needs beside them stays small."""

from collections.abc import Iterable, Iterator

from cachestore.block import Buffer


def batches(blocks: Iterable[tuple[bytes, Buffer]], most: int) -> Iterator[list[tuple[bytes, Buffer]]]:
    """The blocks in their order, in groups of `most` bytes at most; a larger block is a group of its own."""
    batch: list[tuple[bytes, Buffer]] = []
    size = 0
    for block in blocks:
        if batch and size + block[1].nbytes > most:
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += block[1].nbytes
    if batch:
        yield batch
