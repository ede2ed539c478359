"""Quantizers at calls that no module stands for: the `x + y` of a residual connection.

A TorchFunctionMode sees every torch function that a forward calls, inside any eager model and with
its control flow. Module hooks tell whose forward is running; its n-th addition is the call site
`add_n`. The quantized addition of a call site is a child `_call_sites.add_n` of that module.
"""

import threading
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qdq.nn.add import QuantAdd, QuantMultiAdd
from qdq.sites import CALL_SITES

# Names of the torch functions and operators that add two things.
ADDITIONS = frozenset({"add", "add_", "iadd", "__add__", "__iadd__", "__radd__"})
# They iterate over their children, and would take our holder for one of them.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def add_call_site(module: nn.Module, name: str) -> QuantAdd:
    """Quantize the addition of this name in the module's own forward.

    Args:
        module: whose forward makes the call; `follow_calls` tells the mode of it.
        name: `add_0` for the first addition there.
    """
    if not hasattr(module, CALL_SITES):
        module.add_module(CALL_SITES, nn.ModuleDict())
    holder: nn.ModuleDict = getattr(module, CALL_SITES)
    holder[name] = site = QuantAdd()
    holder.train(module.training)
    return site


def follow_calls(model: nn.Module) -> None:
    """Let the mode know whose forward runs, wherever additions can happen."""
    for name, module in model.named_modules():
        if CALL_SITES not in name.split(".") and _may_add(module):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def _may_add(module: nn.Module) -> bool:
    """Everything but torch's leaves and containers, and our own modules that add nothing."""
    home = type(module).__module__
    if home.startswith("torch.nn."):
        return not isinstance(module, CONTAINERS) and any(True for _ in module.children())
    return not home.startswith("qdq.nn.") or isinstance(module, QuantMultiAdd)


class _Frame:
    """One forward that is running: its call sites, and how many additions it has made."""

    def __init__(self, module: nn.Module) -> None:
        self.sites: nn.ModuleDict | None = getattr(module, CALL_SITES, None)
        self.additions = 0


class _CallMode(TorchFunctionMode):
    """Replaces the additions that have a site; there is one mode however deep modules nest."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[_Frame] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in ADDITIONS:
            return func(*args, **(kwargs or {}))
        frame = self.frames[-1]
        name = f"add_{frame.additions}"
        frame.additions += 1
        if frame.sites is None or name not in frame.sites or not _plain(args, kwargs):
            return func(*args, **(kwargs or {}))
        result = frame.sites[name](*args)
        return args[0].copy_(result) if func is Tensor.add_ else result


def _plain(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Two tensors and nothing else: no scalar, no `alpha`, no `out`."""
    return not kwargs and len(args) == 2 and all(isinstance(each, Tensor) for each in args)


class _Running(threading.local):
    mode: _CallMode | None = None


_running = _Running()


def _enter(module: nn.Module, args: object) -> None:
    if _running.mode is None:
        _running.mode = _CallMode()
        _running.mode.__enter__()  # type: ignore[no-untyped-call]
    _running.mode.frames.append(_Frame(module))


def _leave(module: nn.Module, args: object, result: object) -> None:
    mode = _running.mode
    if mode is None:  # the hook of a forward that another thread began
        return
    mode.frames.pop()
    if not mode.frames:
        _running.mode = None
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
