"""vLLM: which head groups of a block a rank of a tensor-parallel engine holds. Together the ranks have the whole block.

The store joins what they write (`Store.put` with `groups`), and each reads its own part. So any degree finds what any
other stored.
"""

from dataclasses import dataclass, replace

from cachestore.block import WHOLE, BlockSpec, Part
from cachestore.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """The head groups of one rank, None for all there are; `writes` is false where another rank holds the same ones.

    `spec` is that of these heads alone: what a page of the rank holds, and the planes that it reads and writes.
    """

    spec: BlockSpec
    groups: range | None = None
    writes: bool = True

    @property
    def part(self) -> Part:
        """What the rank reads of a block."""
        return WHOLE if self.groups is None else Part(groups=self.groups)


def shard(spec: BlockSpec, rank: int, ranks: int) -> Shard:
    """What rank number `rank` of `ranks` has of blocks of `spec`, as vLLM spreads KV heads: in order, in equal parts.

    Where ranks outnumber heads, several in a row hold the same head, and the first of them writes it. ConfigError if
    the heads of a rank are not whole head groups.
    """
    if ranks == 1:
        return Shard(spec)
    groups = spec.head_groups
    if groups % ranks == 0:
        count, first, writes = groups // ranks, rank * (groups // ranks), True
    elif ranks % groups == 0 and all(slot.kv_heads == groups for slot in spec.slots):
        copies = ranks // groups
        count, first, writes = 1, rank // copies, rank % copies == 0
    else:
        raise ConfigError(
            f"--tensor-parallel-size {ranks} does not spread the {groups} head groups of a block evenly; choose a "
            "divisor of them, or use the CacheStoreTier"
        )
    slots = tuple(replace(slot, kv_heads=slot.kv_heads * count // groups) for slot in spec.slots)
    return Shard(replace(spec, slots=slots, head_groups=count), range(first, first + count), writes)
