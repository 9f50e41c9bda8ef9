"""Keys of engines' requests are those of their tokens, and apart where what they stand for is."""

import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import InvalidArgument
from cachestore.hashing import chain
from cachestore.integrations.keys import Image, PromptKeys

SPEC = BlockSpec("model", "one", "bfloat16", (Slot(2, 8, 8),), 1, block_tokens=16)
TOKENS = list(range(100, 170))


def test_keys_grow_as_if_all_tokens_had_come_at_once() -> None:
    keys = PromptKeys(SPEC)
    assert keys.grow(TOKENS[:20]).keys == chain(SPEC, TOKENS[:20]).keys
    assert keys.grow(TOKENS[:31]).keys == chain(SPEC, TOKENS[:16]).keys
    assert keys.grow(TOKENS).keys == chain(SPEC, TOKENS).keys
    assert len(keys.chain) == 4
    # engines have sequences of their own
    assert PromptKeys(SPEC).grow(tuple(TOKENS)).keys == keys.chain.keys


@pytest.mark.parametrize("token", [-1, 1 << 32, 1 << 64, "7"])
def test_what_is_no_token_has_no_key(token: object) -> None:
    keys = PromptKeys(SPEC)
    keys.grow(TOKENS[:16])
    with pytest.raises(InvalidArgument, match="tokens must"):
        keys.grow([*TOKENS[:20], token, *TOKENS])  # type: ignore[list-item]
    assert len(keys.chain) == 1


def test_a_salt_parts_all_blocks_and_an_image_those_from_its_place_on() -> None:
    plain = PromptKeys(SPEC).grow(TOKENS).keys
    salted = PromptKeys(SPEC, salt="ours").grow(TOKENS).keys
    assert not set(plain) & set(salted)
    assert not set(salted) & set(PromptKeys(SPEC, salt="theirs").grow(TOKENS).keys)
    image = PromptKeys(SPEC, [Image("cat", 20, 4)]).grow(TOKENS).keys
    assert image[:1] == plain[:1] and not set(image[1:]) & set(plain)
    # another image, or the same one a token later: the tokens that hold its place are the same
    for other in (Image("dog", 20, 4), Image("cat", 21, 4), Image("cat", 20, 20)):
        keys = PromptKeys(SPEC, [other]).grow(TOKENS).keys
        assert keys[0] == image[0] and keys[2] != image[2]
    # a salt that says what an image would is a salt
    assert not set(PromptKeys(SPEC, salt='cat",4]').grow(TOKENS).keys) & set(image[1:])
