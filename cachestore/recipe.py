"""The recipe of a spec: what changes KV values, in one canonical line. Empty means exact.

A recipe is pairs `word=value` with commas between them and no blanks. Each thing that can be done has exactly one
spelling, with every word that applies, in this order, so that equal recipes give equal fingerprints:

    quantisation=fp8,format=e4m3,group=64
    quantisation=int8,group=64
    quantisation=int4,group=64

`quantisation` names the lossy codec; keys are scaled per channel and values per token, `group` elements at a time
(32 to 128), as in KIVI (arXiv 2402.02750). `format` is e4m3 or e5m2 (arXiv 2209.05433).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cachestore.errors import InvalidArgument
from cachestore.registry import nearest

QUANTISATIONS = ("fp8", "int8", "int4")
FORMATS = ("e4m3", "e5m2")
GROUPS = range(32, 129)
WORDS = ("quantisation", "format", "group")


@dataclass(frozen=True)
class Quantisation:
    """KV of fewer bits: the codec's name, how many elements share a scale, and the format of fp8, else empty."""

    name: str
    group: int = 64
    format: str = ""

    def __post_init__(self) -> None:
        if self.name not in QUANTISATIONS:
            raise InvalidArgument(
                f"recipe: quantisation={self.name} is unknown; {nearest(self.name, [*QUANTISATIONS])}"
            )
        if self.name != "fp8" and self.format:
            raise InvalidArgument(f"recipe: format={self.format} goes with quantisation=fp8 only; leave it out")
        if self.name == "fp8" and self.format not in FORMATS:
            raise InvalidArgument(f"recipe: format={self.format} is unknown; {nearest(self.format, [*FORMATS])}")
        if self.group not in GROUPS:
            raise InvalidArgument(f"recipe: group={self.group} must lie between {GROUPS[0]} and {GROUPS[-1]}")

    def __str__(self) -> str:
        format = f",format={self.format}" if self.format else ""
        return f"quantisation={self.name}{format},group={self.group}"


@dataclass(frozen=True)
class Recipe:
    """What a recipe says; None where it says nothing. `str` gives the canonical line."""

    quantisation: Quantisation | None = None

    def __str__(self) -> str:
        return str(self.quantisation or "")


def parse(line: str) -> Recipe:
    """The recipe that a spec's canonical line says; InvalidArgument, with the way out, for any other line."""
    recipe = _read(line)
    if str(recipe) != line:
        raise InvalidArgument(f"recipe {line!r} is not in the one form that names it; write {str(recipe)!r}")
    return recipe


def canonical(line: str) -> str:
    """The one form of what a person wrote: words in any order, blanks around them, defaults left out."""
    return str(_read(line))


def _read(line: str) -> Recipe:
    words: dict[str, str] = {}
    for pair in line.split(",") if line.strip() else ():
        word, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise InvalidArgument(f"recipe: {pair.strip()!r} is no word=value; write for example 'quantisation=int8'")
        if word not in WORDS:
            raise InvalidArgument(f"recipe: unknown word {word!r}; {nearest(word, [*WORDS])}")
        if word in words:
            raise InvalidArgument(f"recipe: {word} is given twice; give it once")
        words[word] = value
    return Recipe(_quantisation(words) if words else None)


def _quantisation(words: Mapping[str, str]) -> Quantisation:
    if "quantisation" not in words:
        raise InvalidArgument(f"recipe: {next(iter(words))} needs quantisation={'|'.join(QUANTISATIONS)} beside it")
    name, group = words["quantisation"], words.get("group", "64")
    if not (group.isascii() and group.isdigit()) or len(group) > 9:
        raise InvalidArgument(f"recipe: group={group} must be a whole number from {GROUPS[0]} to {GROUPS[-1]}")
    return Quantisation(name, int(group), words.get("format", FORMATS[0] if name == "fp8" else ""))
