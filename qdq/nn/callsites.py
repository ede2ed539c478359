"""Quantizers at calls that no module stands for: the `x + y` of a residual connection.

A TorchFunctionMode sees every torch function that a forward calls, inside any eager model and with
its control flow. Module hooks tell whose forward is running; its n-th addition is the call site
`add_n`. The quantized addition of a call site is a child `_call_sites.add_n` of that module.

Torch runs no hook when KeyboardInterrupt or SystemExit leaves a forward. So each running forward is
known by its Python frame too: one that is off the stack is forgotten before anything is replaced.
"""

import sys
import threading
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from qdq.nn.add import QuantAdd, QuantMultiAdd
from qdq.sites import CALL_SITES

# Names of the torch functions and operators that add two things.
ADDITIONS = frozenset({"add", "add_", "iadd", "__add__", "__iadd__", "__radd__"})
_IN_PLACE = frozenset({"add_", "iadd", "__iadd__"})
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
    if isinstance(module, _NormBase):
        return True  # in training mode it counts its batches with `add_`
    if home.startswith("torch.nn."):
        return not isinstance(module, CONTAINERS) and any(True for _ in module.children())
    return not home.startswith("qdq.nn.") or isinstance(module, QuantMultiAdd)


class _Frame:
    """One forward that is running: its call sites, and how many additions it has made."""

    def __init__(self, module: nn.Module, caller: FrameType | None) -> None:
        self.module = module
        self.sites: nn.ModuleDict | None = getattr(module, CALL_SITES, None)
        self.additions = 0
        self.caller = caller  # runs the forward; None while torch compiles, which has no frames


class _CallMode(TorchFunctionMode):
    """Replaces the additions that have a site; there is one mode however deep modules nest."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[_Frame] = []

    def forget_dead(self) -> None:
        """Drop forwards that were left without a word: those inside the innermost that runs."""
        while self.frames and not _runs(self.frames[-1].caller):
            self.frames.pop()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        called = getattr(func, "__name__", "")
        if called not in ADDITIONS:
            return func(*args, **(kwargs or {}))
        self.forget_dead()
        if not self.frames:
            return func(*args, **(kwargs or {}))
        frame = self.frames[-1]
        name = f"add_{frame.additions}"
        frame.additions += 1
        both = _operands(args, kwargs or {})
        if frame.sites is None or name not in frame.sites or not both:
            return func(*args, **(kwargs or {}))
        result = frame.sites[name](*both)
        return both[0].copy_(result) if called in _IN_PLACE else result


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The two tensors; none if there is a scalar, an `alpha` or an `out`."""
    both = [*args, *(kwargs[name] for name in ("input", "other") if name in kwargs)]
    others = kwargs.keys() - {"input", "other"}
    tensors = len(both) == 2 and all(isinstance(each, Tensor) for each in both)
    return both if tensors and not others else []


def _runs(caller: FrameType | None) -> bool:
    """Whether this Python frame is on the stack of the current thread."""
    frame: FrameType | None = None if caller is None else sys._getframe(1)
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is caller


class _Running(threading.local):
    mode: _CallMode | None = None


_running = _Running()


def reset() -> None:
    """Forget this thread's forwards that KeyboardInterrupt or SystemExit has ended.

    The next forward does the same; until then a mode that replaces nothing would stay among
    torch's, and a `with torch.device(...)` around the interrupted call would close it for its own.
    """
    mode = _running.mode
    if mode is None:
        return
    mode.forget_dead()
    if mode.frames:
        return
    _running.mode = None
    above: list[TorchFunctionMode] = []
    while torch._C._len_torch_function_stack():
        top = _pop_mode()  # type: ignore[no-untyped-call]
        if top is mode:
            break
        above.append(top)
    for each in reversed(above):
        _push_mode(each)  # type: ignore[no-untyped-call]


def _enter(module: nn.Module, args: object) -> None:
    compiling = torch.compiler.is_compiling()
    if not compiling:
        reset()
    if _running.mode is None:
        _running.mode = _CallMode()
        _running.mode.__enter__()  # type: ignore[no-untyped-call]
    _running.mode.frames.append(_Frame(module, None if compiling else sys._getframe(1)))


def _leave(module: nn.Module, args: object, result: object) -> None:
    mode = _running.mode
    if mode is None:  # a hook before `_enter` raised
        return
    for depth in reversed(range(len(mode.frames))):
        if mode.frames[depth].module is module:
            del mode.frames[depth:]
            break
    if not mode.frames:
        _running.mode = None
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
