"""TOML in, frozen dataclasses out; strict.

A section is a folder, its `name` a file in that folder, the other keys are the fields of the frozen dataclass in that
file. Unknown keys are errors that name the nearest known one. Nothing here knows which sections exist: whoever owns a
dataclass builds it with `build`.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AllowInfNan, BeforeValidator, TypeAdapter, ValidationError

from cachestore.errors import ConfigError
from cachestore.registry import Catalogue, nearest

T = TypeVar("T")
Table = Mapping[str, Any]

_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_TIMES = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _quantity(value: object, units: Mapping[str, float], example: str) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no quantity; write for example {example!r}")
    if not isinstance(value, str):
        return value
    text = value.strip()
    number = text.rstrip("".join(sorted(set("".join(units)))))
    unit = text[len(number) :]
    try:
        quantity = float(number) * units[unit] if unit else float(number)
    except (KeyError, ValueError):
        quantity = math.nan
    if not math.isfinite(quantity):
        raise ValueError(f"{value!r} is no quantity; write for example {example!r}")
    return quantity


def _size(value: object) -> object:
    parsed = _quantity(value, _SIZES, "4GiB")
    return int(parsed) if isinstance(parsed, float) and isinstance(value, str) else parsed


def _seconds(value: object) -> object:
    return _quantity(value, _TIMES, "30s")


Bytes = Annotated[int, BeforeValidator(_size)]
"""A size in bytes; configuration may write "4GiB"."""

Seconds = Annotated[float, AllowInfNan(False), BeforeValidator(_seconds)]
"""A duration in seconds; configuration may write "250ms"."""


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError says what is wrong and where."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def check_keys(known: list[str], table: Table, where: str) -> None:
    """ConfigError for the first key of `table` that is not in `known`, with the nearest one."""
    for key in table:
        if key not in known:
            name = f"{where}.{key}" if where else key
            raise ConfigError(f"unknown configuration key {name!r}; {nearest(key, known)}")


def check_table(table: object, where: str) -> None:
    """ConfigError, with how to write one, unless `table` is a table; `where` is its name."""
    if not isinstance(table, Mapping):
        of_a_list, _, index = where.partition("[")
        line = f"[[{of_a_list}]]" if index else f"[{where}]"
        raise ConfigError(f"{where} must be a table, got {_kind(table)}: write the line {line} and its settings below")


def build(cls: type[T], table: Table, where: str) -> T:
    """`table` as an instance of the frozen dataclass `cls`; `where` is the section's name in messages."""
    assert is_dataclass(cls)
    check_table(table, where)
    _check_fields(cls, table, where)
    try:
        return TypeAdapter(cls).validate_python(dict(table))
    except ValidationError as error:
        raise _of_validation(error, where) from error


def _check_fields(cls: type[Any], table: Table, where: str) -> None:
    """ConfigError for the first key that is no field of `cls`, or of a dataclass that is one of its fields."""
    check_keys([field.name for field in fields(cls) if field.init], table, where)
    hints = get_type_hints(cls)
    for name, value in table.items():
        for kind in (hints[name], *get_args(hints[name])):
            if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
                _check_fields(kind, value, f"{where}.{name}")


def build_named(catalogue: Catalogue, table: Table, where: str) -> Any:
    """The plug that `table` names, built from its other keys."""
    check_table(table, where)
    if "name" not in table:
        raise ConfigError(f"{where}.name is missing; write one of: {', '.join(catalogue.names())}")
    rest = {key: value for key, value in table.items() if key != "name"}
    return build(catalogue.load(str(table["name"])), rest, where)


def _of_validation(error: ValidationError, where: str) -> ConfigError:
    """What pydantic found first, by the field's name and in our words, which never show a value: it may be a secret."""
    first = error.errors()[0]
    given, kind = first["input"], first["type"]
    name = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    if kind == "missing":
        return ConfigError(f"{name} is missing, and has no default: write it")
    if kind in ("dict_type", "mapping_type", "dataclass_type"):
        check_table(given, name)
    if kind == "literal_error":
        return ConfigError(f"{name}: must be {first['ctx']['expected']}")
    if kind in _EXPECTED:
        return ConfigError(f"{name}: must be {_EXPECTED[kind]}, got {_kind(given)}")
    return ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}")


_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
}
"""What should stand there, by pydantic's name for what is wrong."""


def _kind(value: object) -> str:
    """What a value is, without the value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number" if isinstance(value, int) else "a number with a point"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__
