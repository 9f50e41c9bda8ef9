"""A contract test names the method in which an engine's interface and ours differ."""

from abc import ABC, abstractmethod

import pytest

from tests.integrations.contracts import differences


class Engine(ABC):
    @abstractmethod
    def load(self, keys: list[str], wait: bool = False) -> int: ...

    async def save(self, keys: list[str]) -> None:
        raise NotImplementedError

    @classmethod
    def made(cls, config: dict[str, str]) -> "Engine":
        raise NotImplementedError

    @property
    def name(self) -> str:
        raise NotImplementedError


class Ours(Engine):
    def load(self, keys: list[str], wait: bool = False, more: int = 0) -> int:
        return more

    async def save(self, keys: list[str]) -> None: ...

    @classmethod
    def made(cls, config: dict[str, str]) -> "Ours":
        return cls()

    @property
    def name(self) -> str:
        return ""

    def figures(self) -> list[int]:
        return []


def changed(**methods: object) -> list[str]:
    """What is said of `Ours` once these methods of the engine are others, or gone if None."""
    kept = {name: each for name, each in vars(Engine).items() if not name.startswith("_")} | methods
    engine = type("Engine", (ABC,), {name: each for name, each in kept.items() if each is not None})
    return list(differences(type("Ours", (engine,), dict(vars(Ours))), engine, {"figures"}))


def test_what_is_as_the_engine_has_it_is_not_named() -> None:
    assert changed() == []


def _load(self: Engine, keys: list[str], limit: int, wait: bool = False) -> int: ...  # type: ignore[empty-body]
def _load_by_name(self: Engine, keys: list[str], *, wait_for: bool = False) -> int: ...  # type: ignore[empty-body]
def _save(self: Engine, keys: list[str]) -> None: ...


@abstractmethod
def _flush(self: Engine) -> None: ...


@pytest.mark.parametrize(
    "methods, said",
    [
        ({"load": _load}, "Ours.load(self, keys, wait=False, more=0), but the engine calls load(self, keys, limit,"),
        ({"load": _load_by_name}, "but the engine calls load(self, keys, *, wait_for=False)"),
        ({"save": _save}, "Ours.save is an async function, the engine's is a function"),
        ({"made": vars(Engine)["load"]}, "Ours.made is a classmethod, the engine's is a function"),
        ({"name": vars(Engine)["load"]}, "Ours.name is a property, the engine's is a function"),
        ({"save": None}, "Engine.save is gone, so nothing calls Ours.save"),
        ({"flush": _flush}, "Engine.flush is abstract, and Ours does not have it"),
    ],
)
def test_what_differs_is_named(methods: dict[str, object], said: str) -> None:
    (found,) = changed(**methods)
    assert said in found


def test_what_is_ours_alone_must_be_said() -> None:
    assert list(differences(Ours, Engine)) == ["Engine.figures is gone, so nothing calls Ours.figures"]
