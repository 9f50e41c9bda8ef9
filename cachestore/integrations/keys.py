"""Keys of an engine's requests: token ids, the images among them, the adapter (in the spec) and a salt.

The same request has the same keys in every engine, so that they share its KV.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cachestore.block import BlockSpec
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, extend, fingerprint


class Image(NamedTuple):
    """What stands for an image, or sound, in a prompt: its content's hash, and which tokens hold its place."""

    content: str
    offset: int
    length: int


@dataclass(eq=False)
class PromptKeys:
    """The keys of one request; they grow with its tokens."""

    spec: BlockSpec
    images: Sequence[Image] = ()
    salt: str = ""
    chain: Chain = field(init=False)

    def __post_init__(self) -> None:
        self.chain = Chain(fingerprint(self.spec), ())
        self._extras = extras(self.spec.block_tokens, self.images, self.salt)

    def grow(self, tokens: Sequence[int]) -> Chain:
        """The keys of all full blocks of `tokens`, the request's from the first on. InvalidArgument if one is none."""
        size = self.spec.block_tokens
        known, full = len(self.chain), len(tokens) // size
        if full > known:
            fresh = tokens if not known and isinstance(tokens, list) else tokens[known * size : full * size]
            # an array takes a list of integers several times faster than numpy does, and as 64 bits fastest
            try:
                packed = np.frombuffer(array("Q", fresh), dtype=np.uint64)
            except (OverflowError, TypeError):
                raise InvalidArgument("tokens must be integers in 0 .. 2**32 - 1") from None
            self.chain = extend(self.spec, self.chain, packed, self._extras)
        return self.chain


def extras(block_tokens: int, images: Iterable[Image], salt: str) -> dict[int, list[bytes]]:
    """What the keys say beside tokens, by block: a salt at the first, an image at each block that holds its place.

    An image is said with where it begins, from the start of that block on: the same tokens may stand for another part.
    """
    found: dict[int, list[bytes]] = {0: [_words("salt", salt)]} if salt else {}
    for content, offset, length in images:
        for block in range(offset // block_tokens, -(-(offset + length) // block_tokens)):
            found.setdefault(block, []).append(_words("image", content, offset - block * block_tokens))
    return found


def _words(*words: object) -> bytes:
    return json.dumps(words, separators=(",", ":")).encode()
