"""What checksums are taken of, after the arguments have been checked."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Sides:
    """K and V of every slot, or whatever else lies in pages: pools alike in shape, strides, dtype and device."""

    pools: tuple[torch.Tensor, ...]  # [pages, heads, page_tokens, head_dim], the heads being those wanted
    pages: torch.Tensor  # [blocks, pages of a block]
    head_groups: int

    @property
    def tokens(self) -> int:
        """Tokens of a block."""
        return int(self.pages.shape[1]) * self.pools[0].shape[2]

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
