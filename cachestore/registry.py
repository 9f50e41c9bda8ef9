"""Names to classes, imported only when asked for.

Each plug folder keeps one catalogue: the name a user writes in the configuration, and where the class lives. A
missing optional dependency hurts only whoever asks for that name. Third parties add names through the entry-point
group `cachestore.<folder>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from cachestore.errors import ConfigError


def nearest(word: str, known: list[str]) -> str:
    """A hint that names the nearest known word, else all of them."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}" if known else "there is none to choose from: leave it out"


@dataclass(frozen=True)
class Catalogue:
    """The plugs of one folder: `folder` is the configuration's section, `places` maps name to "module:Class"."""

    folder: str
    places: Mapping[str, str]

    def names(self) -> list[str]:
        """All names: ours and those of installed plug-ins."""
        return sorted({*self.places, *entry_points(group=f"cachestore.{self.folder}").names})

    def load(self, name: str, field: str = "") -> type[Any]:
        """The class called `name`; ConfigError with the nearest name, or with what to install.

        It speaks of `field`, where the name was written; by default of the section's `name`.
        """
        field = field or f"{self.folder}.name"
        place = self.places.get(name)
        if place is None:
            found = entry_points(group=f"cachestore.{self.folder}", name=name)
            if not found:
                raise ConfigError(f"{field} = {name!r} is unknown; {nearest(name, self.names())}")
            place = next(iter(found)).value
        module, _, attribute = place.partition(":")
        try:
            loaded: type[Any] = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{field} = {name!r} needs the package {error.name!r}; "
                "install it with: pip install 'kv-cachestore[all]'"
            ) from error
        return loaded
