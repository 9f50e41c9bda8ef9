"""The constants of XXH3-64 for inputs of more than 240 bytes with the default secret and seed 0.

After the specification, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. A stripe is 64 bytes in eight
lanes; sixteen stripes are accumulated, with the secret moving on by a word each, before the lanes are scrambled.
"""

from typing import Final

SECRET: Final = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
P32: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
P64: Final = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
START: Final = (P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0])
"""The lanes before the first stripe."""
AVALANCHE: Final = 0x165667919E3779F9

SHORTEST = 241
"""Bytes from which on the long form applies."""


def words(first: int, count: int) -> list[int]:
    """`count` words of the secret from byte `first` on."""
    return [int.from_bytes(SECRET[at : at + 8], "little") for at in range(first, first + 8 * count, 8)]
