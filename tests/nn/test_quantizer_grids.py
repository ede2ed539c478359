"""The grid of a held range is worked out once, and never one step behind the range."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from qdq.nn import QuantAdd, QuantConv2d, TensorQuantizer
from qdq.numerics.affine import QParams, qparams
from qdq.spec import QuantSpec

UINT8 = QuantSpec(signed=False, symmetric=False)


def ranged(amin: float | None, amax: float, spec: QuantSpec | None = None) -> TensorQuantizer:
    quantizer = TensorQuantizer(spec)
    quantizer.set_range(amin, amax)
    return quantizer


def assert_grid(grid: QParams, amin: float, amax: float, spec: QuantSpec) -> None:
    wanted = qparams(torch.tensor(amin), torch.tensor(amax), spec)
    for name in ("scale", "zero_point", "amin", "amax"):
        ours, wants = getattr(grid, name), getattr(wanted, name)
        assert (type(ours), ours.dtype, ours.shape) == (Tensor, torch.float32, ())
        assert torch.equal(ours, wants), name
    assert grid.spec == spec


def test_the_grid_of_a_range_is_worked_out_once() -> None:
    quantizer = ranged(-0.5, 1.5, UINT8)
    assert quantizer.grid() is quantizer.grid(torch.ones(3))
    assert copy.deepcopy(quantizer).grid() is quantizer.grid()


def load(quantizer: TensorQuantizer) -> None:
    quantizer.load_state_dict(ranged(-1.0, 3.0, UINT8).state_dict())


def fill(low: Tensor, high: Tensor) -> None:
    low.fill_(-1.0)
    high.fill_(3.0)


CHANGES: dict[str, Callable[[Any], object]] = {
    "set_range": lambda q: q.set_range(-1.0, 3.0),
    "in place": lambda q: fill(q._amin, q._amax),
    "behind autograd": lambda q: fill(q._amin.data, q._amax.data),
    "through numpy": lambda q: fill(*(torch.from_numpy(t.numpy()) for t in (q._amin, q._amax))),
    "load_state_dict": load,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_range_that_changes_has_its_new_grid_at_once(change: Callable[[Any], object]) -> None:
    quantizer = ranged(-0.5, 1.5, UINT8)
    assert_grid(quantizer.grid(), -0.5, 1.5, UINT8)
    change(quantizer)
    assert_grid(quantizer.grid(), -1.0, 3.0, UINT8)


def test_another_spec_or_clamp_has_another_grid_at_once() -> None:
    quantizer = ranged(-0.5, 1.5, UINT8)
    quantizer.grid()
    quantizer.spec = QuantSpec(bits=4)
    assert_grid(quantizer.grid(), -0.5, 1.5, QuantSpec(bits=4))
    quantizer.limits = (0.0, 1.0)
    assert_grid(quantizer.grid(), 0.0, 1.0, QuantSpec(bits=4))
    quantizer.limits = None
    assert_grid(quantizer.grid(), -0.5, 1.5, QuantSpec(bits=4))


def test_a_least_scale_raises_that_grid_and_leaves_the_next() -> None:
    quantizer = ranged(None, 1.27)
    before = quantizer.grid().scale
    assert quantizer.grid(least=torch.tensor(0.5)).scale.item() == 0.5
    assert torch.equal(quantizer.grid().scale, before)


def test_a_grid_asked_for_in_inference_mode_may_take_part_in_gradients() -> None:
    quantizer, x = ranged(None, 3.3), torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        quantizer(torch.ones(2))
    (x * quantizer.grid().scale).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, quantizer.grid().scale.expand(2))


def test_a_grid_asked_for_under_a_transform_or_on_fake_tensors_is_not_kept() -> None:
    quantizer = ranged(None, 5.5)
    torch.func.grad(lambda x: (x * quantizer.grid().scale).sum())(torch.ones(2))
    assert_grid(quantizer.grid(), -5.5, 5.5, quantizer.spec)
    quantizer.set_range(None, 6.5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        quantizer.grid()
    assert_grid(quantizer.grid(), -6.5, 6.5, quantizer.spec)


def test_a_default_device_does_not_move_the_grid() -> None:
    quantizer = ranged(None, 7.5)
    with torch.device("meta"):
        grid = quantizer.grid()
    assert_grid(grid, -7.5, 7.5, quantizer.spec)


# ---- what a quantizer computes is no call of the model's


class Calls(TorchFunctionMode):
    """Names of the torch functions called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", [QuantSpec(), UINT8], ids=str)
def test_a_function_mode_sees_no_call_of_a_quantizer(spec: QuantSpec) -> None:
    quantizer, x = ranged(-1.0, 2.5, spec), torch.ones(2, requires_grad=True)
    with Calls() as calls:
        quantizer(x)
    assert calls.names == []


def test_of_a_layer_and_an_addition_a_function_mode_sees_what_the_float_one_calls() -> None:
    layer, add = QuantConv2d(1, 1, 1), QuantAdd()
    layer.integer_bias = True
    for quantizer in (layer._input_quantizer, *add._input_quantizers):
        quantizer.set_range(None, 1.7)
    x = torch.ones(1, 1, 2, 2)
    with Calls() as calls:
        add(layer(x), x)
    assert calls.names == ["conv2d", "add"]
