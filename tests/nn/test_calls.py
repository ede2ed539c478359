"""Every call that can be a site, however it is written, against operands rounded apart in numpy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from call_nets import (
    RANGES,
    Calling,
    bias_on_grid,
    channels_on_grid,
    draw,
    on_grid,
    sited,
)
from torch import Tensor
from torch.nn import functional as F

from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn.calls import KINDS, CallSite

Run = Callable[..., Any]


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def in_place(name: str) -> Run:
    """`name` on a copy, so that the inputs of the test stay what they are."""
    return lambda a, b: getattr(a.clone(), name)(b)


def times(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a *= b
    return a


def plus(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


# kind -> ways to write it with two tensors of shape (2, 3, 3) that depend on the input
PAIRS: dict[str, dict[str, Run]] = {
    "add": {
        "+": lambda a, b: a + b,
        "torch": torch.add,
        "keywords": lambda a, b: torch.add(input=a, other=b),
        "method": Tensor.add,
        "add_": in_place("add_"),
        "+=": plus,
        "sum()": lambda a, b: sum([b], a),
    },
    "mul": {
        "*": lambda a, b: a * b,
        "torch": torch.mul,
        "multiply": torch.multiply,
        "keywords": lambda a, b: torch.mul(a, other=b),
        "method": Tensor.mul,
        "mul_": in_place("mul_"),
        "*=": times,
        "__imul__": in_place("__imul__"),
    },
    "matmul": {
        "@": lambda a, b: a @ b,
        "torch": torch.matmul,
        "method": Tensor.matmul,
        "keywords": lambda a, b: torch.matmul(input=a, other=b),
        "bmm": torch.bmm,
        "bmm keywords": lambda a, b: torch.bmm(a, mat2=b),
        "bmm method": Tensor.bmm,
        "mm": lambda a, b: torch.mm(a.flatten(0, 1), b.flatten(0, 1).mT),
    },
    "einsum": {
        "tensors": lambda a, b: torch.einsum("bij,bjk->bik", a, b),
        "a list": lambda a, b: torch.einsum("bij,bjk->bik", [a, b]),
        "attention": lambda a, b: torch.einsum("bqd,bkd->bqk", a, b),
    },
    "concat": {
        "cat": lambda a, b: torch.cat([a, b], 1),
        "tuple": lambda a, b: torch.cat((a, b), dim=-1),
        "keywords": lambda a, b: torch.cat(tensors=[a, b], dim=1),
        "concat": lambda a, b: torch.concat([a, b]),
        "concatenate": lambda a, b: torch.concatenate([a, b], 2),
        "stack": lambda a, b: torch.stack([a, b], 1),
    },
}
BOTH = [(kind, way) for kind, ways in PAIRS.items() for way in ways]
A, B = draw(2, 3, 3, seed=1), draw(2, 3, 3, seed=2)


@pytest.mark.parametrize(("kind", "way"), BOTH)
def test_both_sides_are_quantized_however_a_call_is_written(kind: str, way: str) -> None:
    model = Calling(PAIRS[kind][way])
    assert sited(model, A, B) == (CallSite(f"{kind}_0", kind, 2),)
    close(model(A, B), PAIRS[kind][way](on_grid(A, RANGES[0]), on_grid(B, RANGES[1])))


@pytest.mark.parametrize(("kind", "way"), BOTH)
def test_switched_off_a_call_is_the_float_one_bit_for_bit(kind: str, way: str) -> None:
    model = Calling(PAIRS[kind][way])
    sited(model, A, B)
    with disable_quantization(model):
        assert torch.equal(model(A, B), PAIRS[kind][way](A, B))


@pytest.mark.parametrize(("kind", "way"), BOTH)
def test_gradients_reach_both_sides_inside_their_ranges(kind: str, way: str) -> None:
    model = Calling(lambda a, b: PAIRS[kind][way](a * 1, b * 1))
    sited(model, A, B)
    given = [A.clone().requires_grad_(), B.clone().requires_grad_()]
    rounded = [on_grid(x, amax).requires_grad_() for x, amax in zip(given, RANGES, strict=False)]
    model(*given).square().sum().backward()
    PAIRS[kind][way](*rounded).square().sum().backward()
    for x, x_fq, amax in zip(given, rounded, RANGES, strict=False):
        assert x.grad is not None
        assert x_fq.grad is not None
        close(x.grad, x_fq.grad * (x.abs() <= amax))


def test_three_tensors_are_joined_on_three_grids() -> None:
    model, c = Calling(lambda *x: torch.cat(x, 1)), draw(2, 1, 3, seed=3)
    assert sited(model, A, B, c) == (CallSite("concat_0", "concat", 3),)
    wanted = [on_grid(x, amax) for x, amax in zip((A, B, c), RANGES, strict=False)]
    close(model(A, B, c), torch.cat(wanted, 1))


IMAGE, VOLUME, ROW = draw(2, 3, 8, 8), draw(2, 3, 4, 4, 4), draw(2, 3, 8)
FEATURES = draw(5, 6)
MATRIX, TABLE = draw(4, 6, seed=1), draw(6, 4, seed=1)
OFFSET = draw(4, seed=2)
KERNELS = {dims: draw(4, 3, *(3,) * dims, seed=dims) for dims in (1, 2, 3)}
UP = {dims: draw(3, 4, *(3,) * dims, seed=dims) for dims in (1, 2, 3)}
DATA = {1: ROW, 2: IMAGE, 3: VOLUME}

# name -> (kind, call, input, weight, axis of the weight's output channels)
PRODUCTS: dict[str, tuple[str, Run, Tensor, Tensor, int]] = {
    "linear": ("linear", lambda x, w: F.linear(x, w), FEATURES, MATRIX, 0),
    "linear keywords": ("linear", lambda x, w: F.linear(weight=w, input=x), FEATURES, MATRIX, 0),
    "linear on rows": ("linear", lambda x, w: F.linear(x, w), draw(2, 5, 6), MATRIX, 0),
    "@": ("matmul", lambda x, w: x @ w, FEATURES, TABLE, 1),
    "@ on rows": ("matmul", lambda x, w: x @ w, draw(2, 5, 6), TABLE, 1),
    "@ of a transposed": ("matmul", lambda x, w: x @ w.t(), FEATURES, MATRIX, 0),
    "mm": ("matmul", lambda x, w: torch.mm(x, mat2=w), FEATURES, TABLE, 1),
    "matmul": ("matmul", lambda x, w: x.matmul(other=w), FEATURES, TABLE, 1),
    "einsum": ("einsum", lambda x, w: torch.einsum("bi,io->bo", x, w), FEATURES, TABLE, 1),
    "einsum turned": ("einsum", lambda x, w: torch.einsum("...i,oi", x, w), FEATURES, MATRIX, 0),
    "conv grouped": (
        "conv",
        lambda x, w: F.conv2d(x, w, None, 1, 0, 1, 2),
        draw(2, 4, 5, 5),
        draw(6, 2, 3, 3),
        0,
    ),
    "conv keywords": (
        "conv",
        lambda x, w: F.conv2d(x, weight=w, stride=2, padding=1, dilation=2),
        IMAGE,
        KERNELS[2],
        0,
    ),
} | {
    f"{name}{dims}d": (name, lambda x, w, call=f"{name}{dims}d": getattr(F, call)(x, w), x, w, axis)
    for name, weights, axis in (("conv", KERNELS, 0), ("conv_transpose", UP, 1))
    for dims, (x, w) in {d: (DATA[d], weights[d]) for d in (1, 2, 3)}.items()
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_constant_factor_keeps_a_scale_per_output_channel(name: str) -> None:
    kind, run, x, weight, axis = PRODUCTS[name]
    model = Calling(run, w=weight)
    assert sited(model, x) == (CallSite(f"{kind}_0", kind, 1, True),)
    close(model(x), run(on_grid(x, RANGES[0]), channels_on_grid(weight, axis)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_reach_the_input_and_the_constant_factor(name: str) -> None:
    _, run, x, weight, axis = PRODUCTS[name]
    model = Calling(run, w=weight)
    sited(model, x)
    given = x.clone().requires_grad_()
    model(given).square().sum().backward()
    leaves = [on_grid(x, RANGES[0]), channels_on_grid(weight, axis)]
    run(*(leaf.requires_grad_() for leaf in leaves)).square().sum().backward()
    assert given.grad is not None
    close(given.grad, leaves[0].grad * (x.abs() <= RANGES[0]))  # type: ignore[operator]
    close(model.w.grad, leaves[1].grad)


BIASED: dict[str, tuple[Run, Tensor, Tensor, int]] = {
    "linear": (lambda x, w, b: F.linear(x, w, b), FEATURES, MATRIX, 0),
    "linear keywords": (lambda x, w, b: F.linear(bias=b, input=x, weight=w), FEATURES, MATRIX, 0),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w), FEATURES, TABLE, 1),
    "addmm keywords": (
        lambda x, w, b: torch.addmm(input=b, mat1=x, mat2=w),
        FEATURES,
        TABLE,
        1,
    ),
    "addmm half of them": (lambda x, w, b: torch.addmm(b, x, mat2=w), FEATURES, TABLE, 1),
    "addmm method": (lambda x, w, b: b.addmm(x, w), FEATURES, TABLE, 1),
    "conv": (lambda x, w, b: F.conv2d(x, w, b, 2), IMAGE, KERNELS[2], 0),
    "conv keywords": (lambda x, w, b: F.conv2d(x, w, bias=b, stride=2), IMAGE, KERNELS[2], 0),
    "conv_transpose": (lambda x, w, b: F.conv_transpose2d(x, w, b, 2), IMAGE, UP[2], 1),
}


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("name", BIASED)
def test_a_bias_is_float_or_on_the_grid_of_the_accumulator(name: str, integer: bool) -> None:
    run, x, weight, axis = BIASED[name]
    model = Calling(run, w=weight, b=OFFSET)
    (site,) = sited(model, x)
    model._call_sites[site.name].integer_bias = integer  # type: ignore[index, union-attr]
    bias = bias_on_grid(OFFSET, weight, axis, RANGES[0]) if integer else OFFSET
    assert integer != torch.equal(bias, OFFSET)
    close(model(x), run(on_grid(x, RANGES[0]), channels_on_grid(weight, axis), bias))


@pytest.mark.parametrize("name", BIASED)
def test_switched_off_a_product_is_the_float_one_bit_for_bit(name: str) -> None:
    run, x, weight, _ = BIASED[name]
    model = Calling(run, w=weight, b=OFFSET)
    sited(model, x)
    with disable_quantization(model):
        assert torch.equal(model(x), run(x, weight, OFFSET))


def test_a_grouped_transposed_convolution_has_a_bias_step_per_output_channel() -> None:
    x, weight, bias = draw(2, 4, 5, 5), draw(4, 2, 3, 3), draw(4, seed=1)
    run: Run = lambda x, w, b: F.conv_transpose2d(x, w, b, groups=2)  # noqa: E731
    model = Calling(run, w=weight, b=bias)
    sited(model, x)
    model._call_sites["conv_transpose_0"].integer_bias = True  # type: ignore[index, union-attr]
    step = RANGES[0] / 127 * weight.abs().amax((0, 2, 3)).repeat(2) / 127
    on_step = (bias / step).round() * step
    close(model(x), run(on_grid(x, RANGES[0]), channels_on_grid(weight, 1), on_step))


def test_the_output_is_quantized_once_it_is_switched_on() -> None:
    model = Calling(lambda a, b: a * b)
    sited(model, A, B)
    plain = model(A, B)
    output = quantizers(model)["mul_0.output"]
    output.active = True
    output.set_range(None, 1.0)
    close(model(A, B), on_grid(plain, 1.0))


def test_every_kind_of_call_is_tried_here() -> None:
    tried = {*PAIRS, "avg_pool", "resize", "attention", "addmm"}
    assert tried | {each[0] for each in PRODUCTS.values()} == set(KINDS.values())
