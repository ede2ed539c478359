"""Which calls of functions become sites, and what is said of the others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.insertion.following import trace
from qdq.insertion.policies import Policy
from qdq.insertion.recording import record
from qdq.insertion.selecting import Selection, select
from qdq.nn.calls import CallSite
from qdq.targets.opgraph import OpGraph

CONSTANT = "one side is a constant (T23)"
COMPUTED = "a scaled sum, integers among its operands, or a weight that is computed"
POINTWISE = "part of an activation or a normalization, which is one float region (T20, T24)"
MASK = "adds the mask of an attention (T20)"
NO_PRODUCT = "an einsum that is no matrix product of two tensors"
MOVED = "gives values as they are, so that a pair behind it may as well stand before (T14, O12)"
MEAN = (
    "no runtime has an integer kernel of a mean: the one over an image is also an "
    "nn.AdaptiveAvgPool2d(1), which has one (O13)"
)
HIDDEN = (
    "torch computes this attention in one call that hides its products: those of "
    "nn.MultiheadAttention itself, no subclass, are sites"
)


class Calling(nn.Module):
    """Three layers, some parameters and a forward that is given to it beside the last layer."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run
        self.a, self.b, self.last = (nn.Linear(4, 4) for _ in range(3))
        self.square = nn.Parameter(torch.ones(4, 4))
        self.row = nn.Parameter(torch.ones(4))
        self.register_buffer("kept", torch.ones(4, 4))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x), self.last(x)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def selected(model: nn.Module, graph: OpGraph | None) -> Selection:
    return select(model, graph, Policy((), (), {}, dict(model.named_modules()), graph))


def chosen(run: Callable[..., Any]) -> tuple[list[CallSite], dict[str, str]]:
    """Call sites, and why which other calls are left."""
    model = Calling(run).eval()
    found = selected(model, record(model, X))
    return list(found.calls), {row.name: row.why for row in found.left if "_" in row.name}


LEFT: dict[str, tuple[Callable[..., Any], str, str]] = {
    "a number": (lambda net, x: x * 2, "mul_0", CONSTANT),
    "a number in front": (lambda net, x: 2 + x, "add_0", CONSTANT),
    "a parameter": (lambda net, x: x * net.row, "mul_0", CONSTANT),
    "a buffer": (lambda net, x: x + net.kept[:3], "add_0", CONSTANT),
    "a constant that is computed": (lambda net, x: x * net.row.exp(), "mul_0", CONSTANT),
    "a matrix on the left": (lambda net, x: net.kept @ x.t(), "matmul_0", CONSTANT),
    "a vector": (lambda net, x: x @ net.row, "matmul_0", CONSTANT),
    "alpha": (lambda net, x: torch.add(net.a(x), x, alpha=2), "add_0", COMPUTED),
    "beta": (lambda net, x: torch.addmm(net.row, x, net.square, beta=2), "addmm_0", COMPUTED),
    "a computed weight": (lambda net, x: F.linear(x, net.a(x)), "linear_0", COMPUTED),
    "SiLU": (lambda net, x: x * torch.sigmoid(x), "mul_0", POINTWISE),
    "Hardswish": (lambda net, x: x * F.relu6(x + 3) / 6, "mul_0", POINTWISE),
    "GELU": (lambda net, x: x * 0.5 * (1 + torch.erf(x / 2)), "mul_1", POINTWISE),
    "Mish": (lambda net, x: x * torch.tanh(F.softplus(x)), "mul_0", POINTWISE),
    "LayerNorm": (
        lambda net, x: (x - x.mean(-1, True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5),
        "mul_0",
        POINTWISE,
    ),
    "RMSNorm": (
        lambda net, x: net.row * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
        "mul_0",
        POINTWISE,
    ),
    "a mask": (lambda net, x: (net.a(x) + x.abs()).softmax(-1), "add_0", MASK),
    "a mean": (lambda net, x: net.b(net.a(x).mean(0, keepdim=True)), "mean_0", MEAN),
    "a mean beside a SiLU": (lambda net, x: (x * x.sigmoid()).mean(-1), "mean_0", MEAN),
    "a gate of means": (lambda net, x: x * net.a(x.mean(0)).sigmoid(), "mean_0", MEAN),
    "the mean of a LayerNorm": (
        lambda net, x: (x - x.mean(-1, True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5),
        "mean_0",
        POINTWISE,
    ),
    "the mean of an RMSNorm": (
        lambda net, x: net.row * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
        "mean_0",
        POINTWISE,
    ),
    "nearest": (lambda net, x: F.interpolate(x[None], 8), "resize_0", MOVED),
    "nearest by position": (
        lambda net, x: F.interpolate(x[None], None, 2.0, "nearest-exact"),
        "resize_0",
        MOVED,
    ),
    "an einsum of rows": (
        lambda net, x: torch.einsum("bi,bi->b", net.a(x), net.b(x)),
        "einsum_0",
        NO_PRODUCT,
    ),
    "an einsum with a matrix on the left": (
        lambda net, x: torch.einsum("oi,bi->bo", net.square, x),
        "einsum_0",
        CONSTANT,
    ),
    "an attention in one call": (
        lambda net, x: F.multi_head_attention_forward(
            *(x[:, None],) * 3,
            4,
            2,
            torch.cat([net.square] * 3),
            None,
            None,
            None,
            False,
            0.0,
            net.square,
            net.row,
        ),
        "multi_head_attention_forward_0",
        HIDDEN,
    ),
    "a mask, reshaped": (
        lambda net, x: F.softmax((net.a(x) + x.abs()).view(3, 2, 2), dim=-1),
        "add_0",
        MASK,
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_call_that_is_no_site_says_why(name: str) -> None:
    run, call, why = LEFT[name]
    calls, left = chosen(run)
    assert call not in [each.name for each in calls]
    assert left[call] == why


CHOSEN: dict[str, tuple[Callable[..., Any], CallSite]] = {
    "a residual": (lambda net, x: net.a(x) + x, CallSite("add_0", "add", 2)),
    "a gate": (lambda net, x: net.a(x) * torch.sigmoid(net.b(x)), CallSite("mul_0", "mul", 2)),
    "a join": (lambda net, x: torch.cat([x, net.a(x), x]), CallSite("concat_0", "concat", 3)),
    "scores": (lambda net, x: net.a(x) @ net.b(x).t(), CallSite("matmul_0", "matmul", 2)),
    "a layer": (lambda net, x: F.linear(x, net.kept), CallSite("linear_0", "linear", 1, True)),
    "a table": (lambda net, x: x @ net.square, CallSite("matmul_0", "matmul", 1, True)),
    "a table, turned": (lambda net, x: x @ net.kept.t(), CallSite("matmul_0", "matmul", 1, True)),
    "a standardized weight": (
        lambda net, x: F.linear(x, net.square / net.square.norm()),
        CallSite("linear_0", "linear", 1, True),
    ),
    "an einsum with a table": (
        lambda net, x: torch.einsum("bi,oi->bo", x, net.kept),
        CallSite("einsum_0", "einsum", 1, True),
    ),
    "an einsum of scores": (
        lambda net, x: torch.einsum("qd,kd->qk", net.a(x), net.b(x)),
        CallSite("einsum_0", "einsum", 2),
    ),
    "bilinear": (
        lambda net, x: F.interpolate(x[None, None], (6, 8), mode="bilinear"),
        CallSite("resize_0", "resize", 1),
    ),
    "addmm": (
        lambda net, x: torch.addmm(net.row, x, net.square),
        CallSite("addmm_0", "addmm", 1, True),
    ),
    "attention": (
        lambda net, x: F.scaled_dot_product_attention(x, net.a(x), x, net.kept[:3, :3]),
        CallSite("attention_0", "attention", 4),
    ),
    "a mask of no attention": (lambda net, x: (net.a(x) + x).relu(), CallSite("add_0", "add", 2)),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_call_that_can_be_a_site_is_one(name: str) -> None:
    run, site = CHOSEN[name]
    calls, left = chosen(run)
    assert calls == [site]
    assert site.name not in left


def test_a_mean_of_constants_is_nobodys_concern() -> None:
    calls, left = chosen(lambda net, x: F.linear(x, net.square - net.square.mean()))
    assert [each.name for each in calls] == ["linear_0"]
    assert not left


class Attention(nn.MultiheadAttention):
    """A subclass, which may compute something else."""


@pytest.mark.parametrize("kind", [nn.MultiheadAttention, Attention])
def test_the_projection_inside_an_attention_says_that_it_is_never_called(kind: Any) -> None:
    model = Calling(lambda net, x: net.a(net.look(x, x, x)[0])).eval()
    model.look = kind(4, 2).eval()
    left = {row.name: row.why for row in selected(model, record(model, X)).left}
    assert left["look.out_proj"] == (
        "the recorded forward never calls it: where its weight is read, that call decides"
    )
    assert left["look.multi_head_attention_forward_0"] == HIDDEN


def test_a_sum_of_integers_has_no_number_and_is_no_site() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        places = (x > 0).long()
        places = places + places.flip(0)
        return net.a(x) + x.gather(1, places.clamp(0, 3))

    calls, left = chosen(run)
    assert [each.name for each in calls] == ["add_0"]
    assert not any(name.startswith("add") for name in left)


def test_every_kind_has_its_own_count() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.a(x) + x
        y = torch.cat([y * net.b(x), y + x])
        return y * y.flip(0) + y.roll(1)

    names = [each.name for each in chosen(run)[0]]
    assert names == ["add_0", "mul_0", "add_1", "concat_0", "mul_1", "add_2"]


@pytest.mark.parametrize("name", ["a residual", "a gate", "a join", "scores", "bilinear"])
def test_traced_and_recorded_forwards_have_the_same_sites(name: str) -> None:
    model = Calling(CHOSEN[name][0]).eval()
    found = [selected(model, graph).calls for graph in (record(model, X), trace(model))]
    assert found[0] == found[1] == (CHOSEN[name][1],)
