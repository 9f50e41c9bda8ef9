"""Whether a class of ours still is what an installed engine calls."""

import inspect
from collections.abc import Iterator


def differences(ours: type, theirs: type) -> Iterator[str]:
    """What of the engine's interface we do not implement as it is; each names the method."""
    for name in sorted(getattr(ours, "__abstractmethods__", ())):
        yield f"{theirs.__name__}.{name} is abstract, and {ours.__name__} does not have it"
    for name, method in vars(ours).items():
        base = inspect.getattr_static(theirs, name, None)
        if base in (None, getattr(object, name, None)) or (name.startswith("_") and name != "__init__"):
            continue
        wanted, given = _parameters(base), _parameters(method)
        if given is None or wanted is None:
            if type(base) is not type(method):
                yield f"{ours.__name__}.{name} is a {type(method).__name__}, the engine's a {type(base).__name__}"
        elif given[: len(wanted)] != wanted and name != "__init__":
            yield f"{ours.__name__}.{name}{given}, but the engine calls {name}{wanted}"


def _parameters(method: object) -> list[str] | None:
    function = getattr(method, "__func__", method)
    return list(inspect.signature(function).parameters) if inspect.isfunction(function) else None
