"""transformers: what computes in a model and is not its own, such as adapters, hooks and other attention."""

import functools
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules import module as of_all_modules
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cachestore.engine.layers import text_config

OWN = ("torch", "transformers", "transformers_modules")
"""Where the modules and functions of a model come from that nobody has put others into."""

CHOSEN = (
    ("attn_implementation", ALL_ATTENTION_FUNCTIONS),
    ("attn_implementation", ALL_MASK_ATTENTION_FUNCTIONS),
    ("experts_implementation", ALL_EXPERTS_FUNCTIONS),
)
"""Settings that name a function, and where anybody can register one."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
MOVING = ("AlignDevicesHook", "CpuOffload", "UserCpuOffloadHook")
"""Of accelerate's hooks those that bring weights and inputs to a device, and compute nothing."""


class Stranger(NamedTuple):
    """A part that is not the model's own: what it is called in errors, and which object it is."""

    name: str
    identity: int


def strangers(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[Stranger]:
    """Every one in the model, whose `modules` these are by name; what torch or transformers registers is none."""
    if getattr(model, "_hf_peft_config_loaded", False):
        yield Stranger("adapter", 0)
    for hooks in HOOKS:
        yield from _hooks("every module", getattr(of_all_modules, f"_global{hooks}"))
    kinds: dict[type, bool] = {}
    for name, module in modules.items():
        kind, parts = type(module), vars(module)
        if kind not in kinds:
            kinds[kind] = _own_kind(kind)
        if not kinds[kind]:
            yield Stranger(name or kind.__name__, id(kind))
        if "forward" in parts and not _own_forward(module, parts["forward"]):
            yield Stranger(f"{name or kind.__name__}.forward", id(parts["forward"]))
        for hooks in HOOKS:
            if parts[hooks]:
                yield from _hooks(name or kind.__name__, parts[hooks])
    yield from _functions(model.config)


def _own_kind(kind: type) -> bool:
    module = kind.__module__
    return _own(module) and not module.startswith("torch.ao.") and _own(_origin(getattr(kind, "forward", kind)))


def _own_forward(module: nn.Module, forward: Any) -> bool:
    origin = _origin(forward)
    if origin != "accelerate.hooks":
        return _own(origin)
    hook = vars(module).get("_hf_hook")
    hooks = getattr(hook, "hooks", (hook,))
    return all(type(each).__name__ in MOVING for each in hooks) and _own_forward(
        module, vars(module).get("_old_forward")
    )


def _hooks(name: str, hooks: Any) -> Iterator[Stranger]:
    for hook in tuple(hooks.values()):
        if not _own(_origin(hook)):
            yield Stranger(f"a hook of {name}", id(hook))


def _functions(config: Any) -> Iterator[Stranger]:
    """Those that are registered under the names that the configuration chooses."""
    for setting, registered in CHOSEN:
        for each in {id(part): part for part in (config, text_config(config))}.values():
            chosen = getattr(each, f"_{setting}", None)
            function = registered.get(chosen) if chosen else None
            if function is not None and not _own(_origin(function)):
                yield Stranger(f"{setting} {chosen!r}", id(function))


def _own(origin: str) -> bool:
    return origin.partition(".")[0] in OWN


def _origin(function: Any) -> str:
    """The module that a function, method or object that is called was written in, whatever it says of itself."""
    while isinstance(function, functools.partial | MethodType):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    written = getattr(function, "__globals__", None)
    if written is not None:
        return str(written.get("__name__", ""))
    return str((function if isinstance(function, type) else type(function)).__module__)
