"""Traces in the Mooncake format: which blocks did each request of a real service ask for?

One JSON object a line: `timestamp` (ms), `input_length` and `output_length` (tokens), and `hash_ids`, one id for each
512-token block of the prompt. An id stands for the whole prefix up to its block, so it is a node of the prefix tree,
and the id before it is its parent. Only `hash_ids` must be there: the others are checked, and not needed.
Source: Qin et al., "Mooncake: Trading More Storage for Less Computation", FAST '25.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from cachestore.errors import ConfigError

STANDARD_INPUT = "-"
NUMBERS = ("timestamp", "input_length", "output_length")

Nodes: TypeAlias = tuple[int, ...]
"""A path in the prefix tree, the root first."""


@dataclass(frozen=True)
class Trace:
    """The requests of a trace, in order. Nodes are numbered from 0, `nodes` of them, in order of their first use.

    `blocks` counts those of all requests. `name` is for messages and titles.
    """

    name: str
    requests: list[Nodes]
    nodes: int
    blocks: int


def read_trace(place: str) -> Trace:
    """The trace in a file, or on standard input for "-"; ConfigError names the line and the field that is wrong."""
    if place == STANDARD_INPUT:
        return parse("standard input", sys.stdin.buffer)
    path = Path(place)
    try:
        with path.open("rb") as lines:
            return parse(path.name, lines)
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from error


def parse(name: str, lines: Iterable[bytes]) -> Trace:
    """The trace in these lines; those that are blank are skipped."""
    numbers: dict[int, int] = {}
    parents: list[int | None] = []
    requests: list[Nodes] = []
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        parent, path = None, []
        try:
            for index, block in enumerate(_hash_ids(text)):
                node = numbers.get(block)
                if node is None:
                    node = numbers[block] = len(parents)
                    parents.append(parent)
                elif parents[node] != parent:
                    raise ConfigError(
                        f"hash_ids[{index}] = {block} had another parent before; an id stands for its whole prefix"
                    )
                path.append(node)
                parent = node
        except ConfigError as error:
            raise ConfigError(f"{name}, line {line}: {error}") from None
        requests.append(tuple(path))
    blocks = sum(map(len, requests))
    if not blocks:
        raise ConfigError(f"{name} has no blocks: a trace has one JSON object a line, with hash_ids")
    return Trace(name, requests, len(parents), blocks)


def _hash_ids(text: bytes) -> list[int]:
    try:
        request = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise ConfigError("is not JSON that can be read") from None
    if not isinstance(request, dict):
        raise ConfigError("must be an object with hash_ids")
    for field in NUMBERS:
        value = request.get(field, 0)
        # a bool is an int to Python, and NaN is not above anything
        if type(value) not in (int, float) or not value >= 0:
            raise ConfigError(f"{field} must be a number, 0 or more, got {_short(value)}")
    if "hash_ids" not in request:
        raise ConfigError("hash_ids is missing")
    ids = request["hash_ids"]
    if not isinstance(ids, list):
        raise ConfigError(f"hash_ids must be a list of integers, got {_short(ids)}")
    if not set(map(type, ids)) <= {int}:
        index, wrong = next((index, value) for index, value in enumerate(ids) if type(value) is not int)
        raise ConfigError(f"hash_ids[{index}] must be an integer, got {_short(wrong)}")
    return ids


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
