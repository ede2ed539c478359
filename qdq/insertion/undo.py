"""All of a change to a model, or nothing."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode

P = ParamSpec("P")
R = TypeVar("R")


def atomic(change: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an exception inside the function leaves the model, and torch, as they were.

    Put back are every module's class, attributes and values, and torch's grad mode and function
    modes. Values are put back by reference: the function may give a parameter other `data`, but
    must not write into the data it finds.

    A decorator, because leaving a `with` block is a call, and any call may be where an exception
    arrives: here none comes after the last one of `change`.

    Args:
        change: its first argument is the model, and is called `model`.
    """

    @wraps(change)
    def whole(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0] if args else kwargs.get("model")
        if not isinstance(model, nn.Module):
            return change(*args, **kwargs)  # which knows best what is wrong with it
        before = Snapshot(model)
        try:
            return change(*args, **kwargs)
        except BaseException:
            before.restore()
            raise

    return whole


class Snapshot:
    """Everything of a model that a change may touch, and of torch, by reference."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, type(module), dict(vars(module)), _tables(module))
            for module in model.modules()
        ]
        self._values = [(parameter, parameter.data) for parameter in model.parameters()]
        self._grad = torch.is_grad_enabled()
        self._modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]

    def restore(self) -> None:
        """Put all of it back."""
        for module, kind, attributes, tables in self._modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
            for name, entries in tables.items():
                attributes[name].clear()
                attributes[name].update(entries)
        for parameter, data in self._values:
            parameter.data = data
        torch.set_grad_enabled(self._grad)
        while torch._C._len_torch_function_stack():
            _pop_mode()  # type: ignore[no-untyped-call]
        for mode in self._modes:
            _push_mode(mode)  # type: ignore[no-untyped-call]


def _tables(module: nn.Module) -> dict[str, Any]:
    """Copies of the dictionaries and sets: parameters, buffers, children, hooks, names."""
    return {
        name: dict(value) if isinstance(value, dict) else set(value)
        for name, value in vars(module).items()
        if isinstance(value, (dict, set))
    }
