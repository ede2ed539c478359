"""An exception at any call leaves model and torch exactly as they were.

The n-th call that the package's own code makes, of a Python or a C function, raises instead, for
n = 1, 2, 3 ... until the change goes through. Leaving a `with` block is a call like any other.
"""

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack

import qdq
from qdq.insertion.fusing import fuse
from qdq.insertion.initializing import deactivate, initialize, initialized
from qdq.insertion.placing import retarget
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, enable_quantization, quantizers
from qdq.nn import callsites
from qdq.nn.twins import TWINS

PACKAGE = str(Path(qdq.__file__).parent)
X = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)


class InjectedError(Exception):
    """What code may catch by accident."""


class Interrupt(KeyboardInterrupt):
    """What no code should catch."""


class Residual(nn.Module):
    """Everything insert changes: a norm to fold, layers, an addition, a hook, a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
        self.head = nn.Linear(32, 2)
        self.head.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.flatten(self.branch(x) + x, 1))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()).eval()


def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


def inserted() -> nn.Module:
    model = small()
    insert(model, X)
    return model


def half_disabled() -> nn.Module:
    model = inserted()
    disable_quantization(model, "*.input")
    return model


@dataclass(frozen=True)
class Leaf:
    """One thing: equal if it is the very same, or of the same type and value."""

    thing: object

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Leaf):
            return NotImplemented
        mine, theirs = self.thing, other.thing
        return mine is theirs or (type(mine) is type(theirs) and mine == theirs)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Same(Leaf):
    """One thing: equal only if it is the very same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.thing is other.thing


def of_value(value: object) -> object:
    """A picture of an attribute; tensors by identity, storage and value, containers inside out."""
    if isinstance(value, Tensor):
        grad = None if value.grad is None else value.grad.tolist()
        return Same(value), value.data_ptr(), value.tolist(), value.requires_grad, grad
    if isinstance(value, nn.Module):
        return Same(value)
    if isinstance(value, dict):
        return Same(value), [(key, of_value(each)) for key, each in value.items()]
    if isinstance(value, (list, set)):
        return Same(value), [of_value(each) for each in value]
    return Leaf(value)


def of_model(model: nn.Module) -> object:
    """Every module by path: identity, class, attributes in order; so hooks and switches too."""
    return [
        (path, Same(module), type(module), list(vars(module)), of_value(vars(module)))
        for path, module in model.named_modules(remove_duplicate=False)
    ]


def of_torch() -> object:
    """The namespaces of torch.nn and of its classes, global hooks, modes, the random numbers."""
    names = [name for name in sys.modules if f"{name}.".startswith("torch.nn.modules.")]
    spaces = {name: dict(vars(sys.modules[name])) for name in ("torch.nn", *names)}
    kinds = [*vars(nn).values(), *TWINS, *TWINS.values()]
    return (
        spaces,
        {each: dict(vars(each)) for each in kinds if isinstance(each, type)},
        dict(TWINS),
        {name: of_value(each) for name, each in vars(torch_module).items() if "_global" in name},
        torch.is_grad_enabled(),
        [Same(mode) for mode in _get_current_function_mode_stack()],
        callsites._running.mode,
        torch.get_rng_state().numpy().tobytes(),
    )


class Injection:
    """A profiler that raises in place of the n-th call from within the package."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR:
            caller = frame.f_back
        else:
            caller = frame if event == "c_call" else None
        if caller is not None and caller.f_code.co_filename.startswith(PACKAGE):
            self.calls += 1
            if self.calls == self.at:
                raise self.error

    def during(self, change: Callable[[], object]) -> bool:
        """Whether the change failed."""
        gc.disable()  # what it calls is none of the package's calls, and comes when it likes
        sys.setprofile(self)
        try:
            change()
        except BaseException:
            return True
        finally:
            sys.setprofile(None)
            gc.enable()
        return False


def every_failure(
    make: Callable[[], Any],
    change: Callable[[Any], object],
    error: type[BaseException],
    stride: int = 1,
    *,
    restores: bool = False,
) -> int:
    """Let every `stride`-th call fail, and compare after each.

    Args:
        make: the model to change, in the state it shall be left in.
        change: fails at one call, unless the package catches that.
        error: what is raised.
        stride: from one call to the next.
        restores: the change is a `with` block, so the model is as it was if it goes through, too.

    Returns:
        The number of calls in a change that goes through.
    """
    model, at = make(), 1
    before, torch_before = of_model(model), of_torch()
    while True:
        injection = Injection(at, error("injected"))
        failed = injection.during(partial(change, model))
        if failed or restores:
            assert of_model(model) == before, f"call {at} left the model changed"
            assert of_torch() == torch_before, f"call {at} left torch changed"
        if injection.calls < at:
            assert not failed
            assert injection.calls >= at - stride, "the calls are not the same every time"
            return injection.calls
        if not failed:  # the package went on without
            model = make()
            before, torch_before = of_model(model), of_torch()
        at += stride


ERRORS = (InjectedError, Interrupt)
CHANGES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], object]]] = {
    "insert, recorded": (small, lambda model: insert(model, X, target="onnxruntime")),
    "insert, traced": (small, insert),
    "retarget": (inserted, lambda model: retarget(model, "onnxruntime")),
    "disable": (inserted, lambda model: disable_quantization(model, "*.input")),
    "enable": (half_disabled, enable_quantization),
    "fuse": (small, lambda model: fuse(model, example_inputs=X)),
}


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", CHANGES)
def test_an_exception_at_any_call_leaves_the_model_as_it_was(
    name: str, error: type[BaseException]
) -> None:
    assert every_failure(*CHANGES[name], error) > 100


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", CHANGES)
def test_an_exception_at_some_calls_leaves_the_model_as_it_was(
    name: str, error: type[BaseException]
) -> None:
    assert every_failure(*CHANGES[name], error, stride=23) > 100


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_while_a_residual_block_is_inserted_leaves_it_as_it_was(
    error: type[BaseException],
) -> None:
    assert every_failure(residual, lambda model: insert(model, X), error, stride=37) > 1000


def disabled_for_a_block(model: nn.Module) -> None:
    with disable_quantization(model, "0"):
        assert not model[0]._input_quantizer.enabled  # type: ignore[index,union-attr]


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_at_any_call_around_a_block_leaves_the_switches_as_they_were(
    error: type[BaseException],
) -> None:
    assert every_failure(half_disabled, disabled_for_a_block, error, restores=True) > 500


@pytest.fixture
def _off_again() -> Iterator[None]:
    yield
    deactivate()


def while_off() -> nn.Module:
    deactivate()
    return nn.Identity()


def while_on() -> nn.Module:
    initialize(ignore="Linear")
    return nn.Identity()


def built_in_a_block(_: object) -> None:
    with initialized():
        assert quantizers(nn.AvgPool2d(1))


TORCH_CHANGES: dict[str, Callable[[Any], object]] = {
    "initialize": lambda _: initialize(),
    "initialize all but some": lambda _: initialize(ignore=["Conv*", nn.AvgPool2d]),
    "deactivate": lambda _: deactivate(),
    "a block": built_in_a_block,
}


@pytest.mark.usefixtures("_off_again")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("make", [while_off, while_on])
@pytest.mark.parametrize("name", TORCH_CHANGES)
def test_an_exception_at_any_call_leaves_torch_as_it_was(
    name: str, make: Callable[[], nn.Module], error: type[BaseException]
) -> None:
    calls = every_failure(make, TORCH_CHANGES[name], error, restores=name == "a block")
    assert calls > (0 if name == "deactivate" else 100)


def test_the_pictures_see_every_kind_of_change() -> None:
    def hook(model: Any) -> None:
        model.head.register_forward_hook(lambda *_: None)

    def other_class(model: Any) -> None:
        model.stem.__class__ = nn.Identity

    def value(model: Any) -> None:
        model.stem.weight.data[0] = 7

    def data(model: Any) -> None:
        model.stem.weight.data = model.stem.weight.data.clone()

    def frozen(model: Any) -> None:
        model.stem.weight.requires_grad_(False)

    def mode(model: Any) -> None:
        model.branch[1].train()

    def names(model: Any) -> None:
        model.branch[1]._non_persistent_buffers_set.add("more")

    for change in (hook, other_class, value, data, frozen, mode, names):
        model = residual()
        before = of_model(model)
        assert of_model(model) == before
        change(model)
        assert of_model(model) != before, change


def test_the_picture_of_torch_sees_other_names_constructors_and_modes() -> None:
    before = of_torch()
    with initialized():
        assert of_torch() != before
    with torch.no_grad():
        assert of_torch() != before
    with torch.device("cpu"):
        assert of_torch() != before
    nn.qdq_was_here = 1  # type: ignore[attr-defined]
    assert of_torch() != before
    del nn.qdq_was_here
    assert of_torch() == before
