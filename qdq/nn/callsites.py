"""Quantizers at calls that no module stands for: `x + y`, `torch.cat`, `F.conv2d`.

A TorchFunctionMode sees every torch function that a forward calls, inside any eager model and with
its control flow. Module hooks tell whose forward is running; its n-th addition is the call site
`add_n`. The quantized call is a child `_call_sites.add_n` of that module.

Torch runs no hook when KeyboardInterrupt or SystemExit leaves a forward. So each running forward is
known by its Python frame too: one that is off the stack is forgotten before anything is replaced.
"""

import sys
import threading
import warnings
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._C._dynamo import eval_frame
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from qdq.nn.calls import IN_PLACE, KINDS, QuantCall, as_matmul, is_counted, works
from qdq.nn.holders import holder_of
from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.twins import TWINS
from qdq.sites import CALL_SITES, INSIDE, owner


def follow_calls(model: nn.Module, known: frozenset[str] = frozenset()) -> None:
    """Let the mode know whose forward runs.

    Args:
        model: the root, with its call sites.
        known: names of the calls that were recorded; others are reported when they happen. Empty:
            nothing is reported.
    """
    for path, module in model.named_modules():
        if CALL_SITES in path.split(".") or type(module) is TensorQuantizer:
            continue  # what it computes is hidden from the mode
        around = holder_of(model, f"{path}.call".lstrip("."))
        held = None if around is None else model.get_submodule(around)
        sites: nn.ModuleDict | None = getattr(held, CALL_SITES, None)
        inner = "" if around is None else path[len(around) :].strip(".")
        module.register_forward_pre_hook(
            _Enter(
                sites,
                f"{inner.replace('.', INSIDE)}{INSIDE}" if inner else "",
                path,
                _calls_of(path, module, known),
            )
        )
        module.register_forward_hook(_leave, always_call=True)


def _calls_of(path: str, module: nn.Module, known: frozenset[str]) -> frozenset[str] | None:
    """Keys of the calls that this module made; None where others are nobody's concern."""
    ours = type(module) in TWINS.values()  # it is one op, whatever it calls
    if ours or not known or type(module).__module__.startswith(("torch.nn.", "qdq.nn.")):
        return None
    return frozenset(name.rpartition(".")[2] for name in known if owner(name) == path)


class _Frame:
    """One forward that is running: its call sites, and how many calls of each kind it has made."""

    def __init__(self, module: nn.Module, entered: "_Enter", caller: FrameType | None) -> None:
        self.module = module
        # A replica of the module has its own sites; a container has those of the module around.
        self.sites: nn.ModuleDict | None = getattr(module, CALL_SITES, None)
        if entered.prefix:
            self.sites = entered.sites
        self.entered = entered
        self.calls: dict[str, int] = {}
        self.caller = caller  # runs the forward; None while torch compiles, which has no frames

    @property
    def counts(self) -> bool:
        """Whether it matters which of its calls comes next."""
        return self.sites is not None or self.entered.known is not None

    def site(self, kind: str) -> QuantCall | None:
        """The site of the next call of this kind."""
        number = self.calls.get(kind, 0)
        self.calls[kind] = number + 1
        name = f"{kind}_{number}"
        if self.sites is not None and self.entered.prefix + name in self.sites:
            return self.sites[self.entered.prefix + name]  # type: ignore[return-value]
        known = self.entered.known
        if known is not None and name not in known and not torch.compiler.is_compiling():
            path = f"{self.entered.path}.{name}".lstrip(".")
            warnings.warn(
                f"the call {path} did not happen when qdq.insert recorded the forward: it runs "
                "float; pass example inputs that take this way to qdq.insert",
                RuntimeWarning,
                stacklevel=2,
            )
        return None


class _Running(threading.local):
    """What this thread is in the middle of.

    Torch's compiler knows one object by the way to it: the mode and the hooks both come here.
    """

    def __init__(self) -> None:
        self.mode: _CallMode | None = None
        self.frames: list[_Frame] = []
        self.asked: list[str] = []  # the call that the mode is deciding about, if any

    def forget_dead(self) -> None:
        """Drop forwards that were left without a word: those inside the innermost that runs."""
        while self.frames and not _runs(self.frames[-1].caller):
            self.frames.pop()

    def innermost(self, caller: FrameType | None) -> _Frame | None:
        """The forward that makes a call.

        Args:
            caller: the Python frame that called; None while torch compiles.
        """
        if caller is not None:
            self.forget_dead()
        frame = self.frames[-1] if self.frames else None
        if frame is None or caller is None or isinstance(frame.module, GraphModule):
            return frame
        # A graph that the compiler made of this very forward has its quantizers in it.
        return None if caller.f_code.co_filename.startswith("<eval_with_key>") else frame


class _CallMode(TorchFunctionMode):
    """Replaces the calls that have a site; there is one mode however deep modules nest."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        called = getattr(func, "__name__", "")
        # While it decides about one call, others are torch's own doing: eager torch keeps them
        # from a mode, the compiler does not.
        if called not in KINDS or _running.asked:
            return func(*args, **kwargs)
        frame = _running.innermost(None if torch.compiler.is_compiling() else sys._getframe(1))
        if frame is None or not frame.counts or not is_counted(args, kwargs):
            return func(*args, **kwargs)
        _running.asked.append(called)
        try:
            site = frame.site(KINDS[called])
            if called == "einsum" and site is not None and works(site):
                func, args, kwargs = as_matmul(func, args, kwargs)
            if site is None or not site.fits(args, kwargs):
                return func(*args, **kwargs)
            if called in IN_PLACE:
                return args[0].copy_(site(IN_PLACE[called], args, kwargs))
            return site(func, args, kwargs)
        finally:
            _running.asked.pop()


_running = _Running()


def _runs(caller: FrameType | None) -> bool:
    """Whether this Python frame is on the stack of the current thread."""
    frame: FrameType | None = None if caller is None else sys._getframe(1)
    while frame is not None and frame is not caller:
        frame = frame.f_back
    return frame is caller


def reset() -> None:
    """Forget this thread's forwards that KeyboardInterrupt or SystemExit has ended.

    The next forward does the same; until then a mode that replaces nothing would stay among
    torch's, and a `with torch.device(...)` around the interrupted call would close it for its own.
    """
    mode = _running.mode
    if mode is None:
        return
    _running.forget_dead()
    if _running.frames:
        return
    _running.mode = None
    _running.asked.clear()
    above: list[TorchFunctionMode] = []
    while torch._C._len_torch_function_stack():
        top = _pop_mode()  # type: ignore[no-untyped-call]
        if top is mode:
            break
        above.append(top)
    for each in reversed(above):
        _push_mode(each)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class _Enter:
    """Forward pre-hook: from here on this module's calls are counted.

    Attributes:
        sites: where a container's call sites are, with the module around it.
        prefix: what their names begin with there; empty for a module that holds its own.
        path: the module's own.
        known: the calls it made when it was recorded; None: unknown.
    """

    sites: nn.ModuleDict | None
    prefix: str
    path: str
    known: frozenset[str] | None

    def __call__(self, module: nn.Module, args: object) -> None:
        compiling = torch.compiler.is_compiling()
        if not compiling:
            reset()
        if _running.mode is None:
            _running.mode = _CallMode()
            _running.mode.__enter__()  # type: ignore[no-untyped-call]
        caller = None if compiling else sys._getframe(1)
        _running.frames.append(_Frame(module, self, caller))


def _leave(module: nn.Module, args: object, result: object) -> None:
    mode = _running.mode
    if mode is None:  # a hook before `_enter` raised
        return
    frames = _running.frames
    for depth in reversed(range(len(frames))):
        if frames[depth].module is module:
            del frames[depth:]
            break
    if not frames:
        _running.mode = None
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


_RUN_AS_IT_IS = eval_frame._FrameExecStrategy(
    eval_frame._FrameAction.SKIP, eval_frame._FrameAction.DEFAULT
)
for _hook in (_Enter.__call__, _leave):
    # The compiler runs the hooks of the root outside of what it compiles; there it shall not make
    # a program of its own of them. Inside, it follows them.
    eval_frame.set_code_exec_strategy(_hook.__code__, _RUN_AS_IT_IS)
