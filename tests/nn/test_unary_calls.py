"""Average pools and resizes that a forward calls: their input is quantized, and that is all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from call_nets import RANGES, Calling, draw, on_grid, sited
from torch import Tensor
from torch.nn import functional as F

from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn.calls import CallSite

Run = Callable[..., Any]


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


IMAGE, VOLUME, ROW = draw(2, 3, 8, 8), draw(2, 3, 4, 4, 4), draw(2, 3, 8)
POOLS: dict[str, tuple[Run, Tensor]] = {
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), ROW),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, stride=2, padding=1), IMAGE),
    "avg_pool2d keywords": (lambda x: F.avg_pool2d(input=x, kernel_size=2), IMAGE),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), VOLUME),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 3), ROW),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (1, 2)), IMAGE),
    "adaptive_avg_pool2d keywords": (lambda x: F.adaptive_avg_pool2d(x, output_size=1), IMAGE),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 1), VOLUME),
}


RESIZES: dict[str, tuple[Run, Tensor]] = {
    "linear": (lambda x: F.interpolate(x, scale_factor=2, mode="linear"), ROW),
    "bilinear": (lambda x: F.interpolate(x, (5, 9), None, "bilinear"), IMAGE),
    "bilinear corners": (
        lambda x: F.interpolate(x, size=(9, 9), mode="bilinear", align_corners=True),
        IMAGE,
    ),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic"), IMAGE),
}
UNARY = {("avg_pool", name): each for name, each in POOLS.items()} | {
    ("resize", name): each for name, each in RESIZES.items()
}


@pytest.mark.parametrize(("kind", "name"), UNARY)
def test_a_pool_or_a_resize_reads_its_input_from_a_grid(kind: str, name: str) -> None:
    run, x = UNARY[kind, name]
    model = Calling(run)
    assert sited(model, x) == (CallSite(f"{kind}_0", kind, 1),)
    close(model(x), run(on_grid(x, RANGES[0])))
    with disable_quantization(model):
        assert torch.equal(model(x), run(x))


@pytest.mark.parametrize(("kind", "name"), UNARY)
def test_it_has_no_quantizer_behind_it_as_the_pool_modules_have_none(kind: str, name: str) -> None:
    run, x = UNARY[kind, name]
    model = Calling(run)
    sited(model, x)
    assert list(quantizers(model)) == [f"{kind}_0.input_0"]


@pytest.mark.parametrize("size", [torch.tensor(6), torch.tensor(5)])
def test_a_size_that_is_a_tensor_as_while_tracing_is_no_operand(size: Tensor) -> None:
    model = Calling(lambda x, to: F.interpolate(x, size=(to, to), mode="bilinear"))
    sited(model, IMAGE, 4)
    want = F.interpolate(on_grid(IMAGE, RANGES[0]), size=(int(size), int(size)), mode="bilinear")
    close(model(IMAGE, size), want)
