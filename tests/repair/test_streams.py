"""Streams are found where scaling channels is exact, and refused wherever it is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import weight_norm

from qdq.errors import StepError
from qdq.insertion.replacing import insert
from qdq.repair.streams import Stream, streams

Between = Callable[["Chain", Tensor], Tensor]


class Chain(nn.Module):
    """Two convolutions of eight channels with something between them."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 4, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.slopes = nn.PReLU(8)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x))).mean((2, 3))


PAIR = Stream(("first",), ("second",))


def found(model: nn.Module, x: Tensor, **options: Any) -> tuple[Stream, ...]:
    insert(model.eval(), x, target="onnxruntime", **options)
    return streams(model)


def chain(between: Between, **options: Any) -> tuple[Stream, ...]:
    return found(Chain(between), torch.randn(2, 3, 8, 8), **options)


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: x,
        lambda net, x: F.relu(x),
        lambda net, x: F.leaky_relu(x, 0.1),
        lambda net, x: net.slopes(x),
        lambda net, x: F.max_pool2d(F.relu(x), 2),
        lambda net, x: F.avg_pool2d(x, 2),
        lambda net, x: x.relu_(),
    ],
    ids=["nothing", "relu", "leaky_relu", "prelu", "max_pool", "avg_pool", "in place"],
)
def test_a_pair_is_found_through_what_is_homogeneous(between: Between) -> None:
    assert chain(between) == (PAIR,)


def test_a_residual_stream_has_all_that_make_and_read_it() -> None:
    assert chain(lambda net, x: F.relu(x + net.inner(x))) == (
        Stream(("first", "inner"), ("inner", "second")),
    )


def test_in_place_additions_are_followed() -> None:
    def between(net: Chain, x: Tensor) -> Tensor:
        y = net.inner(F.relu(x))
        y += x
        return y

    assert chain(between) == (Stream(("first", "inner"), ("inner", "second")),)


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: F.relu6(x),
        lambda net, x: torch.sigmoid(x),
        lambda net, x: F.gelu(x),
        lambda net, x: x + 1,
        lambda net, x: x + torch.ones(8, 1, 1),
        lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        lambda net, x: x.flip(1),
        lambda net, x: F.relu(x) + x.abs(),
        lambda net, x: torch.cat([x[:, :4], x[:, 4:]], 1),
        lambda net, x: net.inner(net.inner(x)),
        lambda net, x: F.conv2d(x, net.inner.weight, padding=1, groups=8),
        lambda net, x: x.add(x, alpha=2),
    ],
    ids=[
        "relu6", "sigmoid", "gelu", "a number", "a constant", "a gate", "flipped", "abs beside",
        "concat", "called twice", "a call of a shared weight", "alpha",
    ],
)  # fmt: skip
def test_a_pair_is_refused_where_scaling_would_change_the_function(between: Between) -> None:
    assert not any("first" in stream.producers for stream in chain(between))


def test_what_the_model_returns_is_not_scaled() -> None:
    class Seen(Chain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = F.relu(self.first(x))
            return y, self.second(y)

    assert found(Seen(lambda net, x: x), torch.randn(2, 3, 8, 8)) == ()


def test_layers_left_float_and_tied_weights_are_left_alone() -> None:
    assert chain(through_relu, ignore="second") == ()
    net = Chain(through_relu)
    net.first.bias = net.inner.bias
    assert found(net, torch.randn(2, 3, 8, 8)) == ()


def through_relu(_net: Chain, x: Tensor) -> Tensor:
    return F.relu(x)


def test_a_weight_made_by_a_hook_is_left_alone() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        net = nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 8))
    assert found(net, torch.randn(4, 8)) == ()


def test_a_pool_over_the_channels_of_linear_layers_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.max_pool1d(self.first(x), 3, stride=1, padding=1))

    assert found(Pooled(), torch.randn(2, 5, 8)) == ()


def test_a_layer_norm_makes_a_stream_of_its_linear_readers() -> None:
    class Readers(nn.Module):
        def __init__(self, *, affine: bool = True) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8, elementwise_affine=affine)
            self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return torch.tanh(self.query(y)) * torch.sigmoid(self.key(y))

    x = torch.randn(2, 5, 8)
    assert found(Readers(), x) == (Stream(("norm.layer_norm_0",), ("query", "key")),)
    assert found(Readers(affine=False), x) == ()


def test_no_recorded_forward_is_an_error() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else x

    model = Branches().eval()
    insert(model)
    with pytest.raises(
        StepError,
        match=r"nobody knows which layer reads what: torch.fx cannot follow this model's forward\n"
        r"  at:  Branches\n  fix: pass example_inputs to qdq.insert",
    ):
        streams(model)


def test_a_traced_forward_gives_the_same_streams_as_a_recorded_one() -> None:
    recorded = chain(through_relu)
    model = Chain(through_relu).eval()
    insert(model, target="onnxruntime")
    assert streams(model) == recorded == (PAIR,)
