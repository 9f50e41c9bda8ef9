"""Whether a class of ours still is what an installed engine calls."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from inspect import Parameter

MORE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def differences(ours: type, theirs: type, own: Collection[str] = ()) -> Iterator[str]:
    """What of the engine's interface we do not implement as it is; each names the method.

    `own` are public names of ours that are not meant for the engine. Constructors are not compared: who calls them
    differs.
    """
    for name in sorted(getattr(ours, "__abstractmethods__", ())):
        yield f"{theirs.__name__}.{name} is abstract, and {ours.__name__} does not have it"
    for name, method in vars(ours).items():
        if name.startswith("_") or name in own:
            continue
        base = inspect.getattr_static(theirs, name, None)
        if base is None:
            yield f"{theirs.__name__}.{name} is gone, so nothing calls {ours.__name__}.{name}"
        elif type(base) is not type(method) or _waits(base) != _waits(method):
            yield f"{ours.__name__}.{name} is {_kind(method)}, the engine's is {_kind(base)}"
        elif not _takes(_parameters(method), _parameters(base)):
            called = f"{name}{_text(_parameters(base))}"
            yield f"{ours.__name__}.{name}{_text(_parameters(method))}, but the engine calls {called}"


def _takes(given: Sequence[Parameter], wanted: Sequence[Parameter]) -> bool:
    """Whether every call of `wanted` is one of `given`."""
    same = len(given) >= len(wanted) and all(map(_fits, given, wanted))
    return same and all(each.default is not Parameter.empty or each.kind in MORE for each in given[len(wanted) :])


def _fits(given: Parameter, wanted: Parameter) -> bool:
    kinds = (wanted.kind, Parameter.POSITIONAL_OR_KEYWORD)
    may_lack = wanted.default is not Parameter.empty
    return given.name == wanted.name and given.kind in kinds and not (may_lack and given.default is Parameter.empty)


def _function(method: object) -> object:
    return getattr(method, "__func__", method)


def _waits(method: object) -> bool:
    return inspect.iscoroutinefunction(_function(method))


def _kind(method: object) -> str:
    return f"{'an async ' if _waits(method) else 'a '}{type(method).__name__}"


def _parameters(method: object) -> list[Parameter]:
    function = _function(method)
    return list(inspect.signature(function).parameters.values()) if inspect.isfunction(function) else []


def _text(parameters: Sequence[Parameter]) -> str:
    return str(inspect.Signature([each.replace(annotation=Parameter.empty) for each in parameters]))
