"""What checksums are taken of, after the arguments have been checked."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Sides:
    """K and V of every slot, or whatever else lies in pages: pools alike in shape, strides, dtype and device."""

    pools: tuple[torch.Tensor, ...]  # [pages, heads, page_tokens, head_dim], the heads being those wanted
    pages: torch.Tensor | None  # [blocks, pages of a block]; None where every page is a block, in this order
    head_groups: int

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self.pools[0] if self.pages is None else self.pages)

    @property
    def each(self) -> int:
        """Pages of a block."""
        return 1 if self.pages is None else self.pages.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens of a block."""
        return self.each * self.pools[0].shape[2]

    @property
    def group_heads(self) -> int:
        """Heads of a plane."""
        return self.pools[0].shape[1] // self.head_groups

    @property
    def row_bytes(self) -> int:
        """Bytes of one token of one head."""
        return self.pools[0].shape[3] * self.pools[0].element_size()

    @property
    def plane_bytes(self) -> int:
        """Bytes of a plane."""
        return self.group_heads * self.tokens * self.row_bytes

    @property
    def strides(self) -> list[int]:
        """Bytes from page to page, head to head and token to token."""
        return [stride * self.pools[0].element_size() for stride in self.pools[0].stride()[:3]]

    @property
    def flat(self) -> bool:
        """Whether the bytes of a plane lie one behind the other."""
        _, head, token = self.strides
        together = self.group_heads == 1 or head == self.tokens * token
        return self.each == 1 and token == self.row_bytes and together
