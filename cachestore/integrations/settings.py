"""What an engine's configuration says to an adapter, checked before anything starts."""

from typing import TypeVar

from cachestore.config import Table, build
from cachestore.errors import ConfigError

T = TypeVar("T")

ABOVE_ZERO = {"timeout": "10s", "lookup_timeout": "500ms", "threads": "2"}
"""Settings of any adapter that does nothing where they are zero, and what is usual."""


def settings_from(cls: type[T], table: Table, where: str) -> T:
    """`table` as an instance of the frozen dataclass `cls`, in which no number may be negative.

    ConfigError names the setting that is unknown or wrong, by `where` and its name.
    """
    settings = build(cls, table, where)
    for name, value in vars(settings).items():
        if name in ABOVE_ZERO and value <= 0:
            raise ConfigError(f"{where}.{name} must be more than 0, got {value:g}; {ABOVE_ZERO[name]} is usual")
        if isinstance(value, int | float) and value < 0:
            raise ConfigError(f"{where}.{name} must be 0 or more, got {value:g}")
    return settings
