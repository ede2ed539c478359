"""Folding BatchNorms: the same results, nothing folded that must stay, nothing half done."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import InputError, StepError
from qdq.insertion import fusing
from qdq.insertion.fusing import fuse
from qdq.nn import QuantAdd


class Net(nn.Module):
    """A net whose forward is given to it."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, and BatchNorms with statistics and affine parameters of a trained net."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            if norm.running_mean is not None:
                norm.running_mean.normal_(generator=generator)
                norm.running_var.uniform_(0.1, 3.0, generator=generator)
            if norm.affine:
                norm.weight.data.uniform_(-2.0, 2.0, generator=generator)
                norm.bias.data.normal_(generator=generator)
    return model.eval()


LAYERS: list[tuple[Callable[[bool], nn.Module], Callable[..., nn.Module], tuple[int, ...]]] = [
    (lambda bias: nn.Conv1d(2, 4, 3, bias=bias), nn.BatchNorm1d, (3, 2, 9)),
    (lambda bias: nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d, (3, 2, 7, 7)),
    (lambda bias: nn.Conv2d(4, 4, 3, bias=bias, groups=4), nn.BatchNorm2d, (3, 4, 7, 7)),
    (lambda bias: nn.Conv3d(2, 4, 2, bias=bias), nn.BatchNorm3d, (3, 2, 4, 4, 4)),
    (lambda bias: nn.Linear(5, 4, bias=bias), nn.BatchNorm1d, (3, 5)),
]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layer", "norm", "shape"), LAYERS)
def test_a_folded_layer_computes_what_layer_and_norm_did(
    layer: Any, norm: Any, shape: tuple[int, ...], bias: bool, affine: bool
) -> None:
    torch.manual_seed(0)
    model = lively(nn.Sequential(layer(bias), norm(4, affine=affine, eps=1e-2)))
    x = torch.randn(shape)
    want = model.double()(x.double())
    model.float()
    report = fuse(model, example_inputs=x)
    assert report.folded == ("1",)
    assert report.rows[0].why == "folded into 0"
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(model(x).double(), want, rtol=1e-5, atol=1e-5)


def test_without_inputs_the_forward_is_traced() -> None:
    model = lively(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    x = torch.randn(2, 1, 5, 5)
    want = model(x)
    assert fuse(model).folded == ("1",)
    torch.testing.assert_close(model(x), want)


def test_only_what_needs_a_bias_gets_one_and_parameters_keep_their_identity() -> None:
    model = lively(
        nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2)
        )
    )
    weights = [model[0].weight, model[0].bias, model[2].weight]
    fuse(model)
    assert model[0].weight is weights[0]
    assert model[0].bias is weights[1]
    assert model[2].weight is weights[2]
    assert isinstance(model[2].bias, nn.Parameter)
    assert model[2].bias.requires_grad
    names = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(model.state_dict()) == names


def test_a_frozen_layer_gets_a_frozen_bias() -> None:
    model = lively(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)))
    model[0].weight.requires_grad_(False)
    fuse(model)
    assert not model[0].bias.requires_grad


def test_a_bias_that_two_layers_share_is_not_changed_under_the_other() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].bias = model[0].bias
    lively(model)
    x = torch.randn(4, 3)
    want = model(x)
    assert fuse(model, example_inputs=x).folded == ("1",)
    torch.testing.assert_close(model(x), want)


def test_a_norm_under_two_names_is_gone_under_both() -> None:
    norm = nn.BatchNorm2d(2)
    body = nn.Sequential(nn.Conv2d(1, 2, 3), norm)
    model = lively(Net(lambda net, x: net.body(x), norm=norm, body=body))
    x = torch.randn(2, 1, 5, 5)
    want = model(x)
    assert fuse(model, example_inputs=x).folded == ("norm",)
    torch.testing.assert_close(model(x), want)


def test_a_dtype_is_kept() -> None:
    model = lively(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double())
    fuse(model, example_inputs=torch.randn(2, 3, dtype=torch.float64))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def shared_layer() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.n(net.c(net.c(x)))

    return Net(run, c=nn.Conv2d(2, 2, 3, padding=1), n=nn.BatchNorm2d(2))


def shared_norm() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.n(net.b(net.n(net.c(x))))

    return Net(run, c=nn.Conv2d(2, 2, 3), b=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def never_called() -> nn.Module:
    return Net(lambda net, x: net.c(x), c=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def two_readers() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.c(x)
        return net.n(y) + F.relu(y)

    return Net(run, c=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def read_by_the_model() -> nn.Module:
    def run(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.c(x)
        return net.n(y), y

    return Net(run, c=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def changed_in_place() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.c(x)
        y += 1
        return net.n(y)

    return Net(run, c=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def no_statistics() -> nn.Module:
    return Net(
        lambda net, x: net.n(net.c(x)),
        c=nn.Conv2d(2, 2, 3),
        n=nn.BatchNorm2d(2, track_running_stats=False),
    )


def after_a_relu() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.n(net.r(net.c(x)))

    return Net(run, c=nn.Conv2d(2, 2, 3), r=nn.ReLU(), n=nn.BatchNorm2d(2))


def after_a_function() -> nn.Module:
    return Net(lambda net, x: net.n(F.relu(net.c(x))), c=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def first_of_all() -> nn.Module:
    return Net(lambda net, x: net.c(net.n(x)), c=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))


def tied_weight() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.b(net.n(net.c(x)))

    net = Net(run, c=nn.Conv2d(2, 2, 3), b=nn.Conv2d(2, 2, 3), n=nn.BatchNorm2d(2))
    net.b.weight = net.c.weight
    return net


class Louder(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def after_a_subclass() -> nn.Module:
    return Net(lambda net, x: net.n(net.c(x)), c=Louder(2, 2, 3), n=nn.BatchNorm2d(2))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (shared_layer, "c is called 2 times in one forward"),
        (shared_norm, "it is called 2 times in one forward"),
        (never_called, "it is called 0 times in one forward"),
        (two_readers, "something else reads the output of c too"),
        (read_by_the_model, "something else reads the output of c too"),
        (changed_in_place, "what comes before it is no layer"),
        (no_statistics, "it keeps no running statistics"),
        (after_a_relu, "r, before it, is a ReLU"),
        (after_a_function, "what comes before it is no layer"),
        (first_of_all, "what comes before it is no layer"),
        (tied_weight, "the weight of c is tied to another layer's"),
        (after_a_subclass, "what comes before it is no layer"),  # but the times 2 inside
    ],
)
def test_a_norm_that_cannot_be_folded_stays_and_says_why(
    make: Callable[[], nn.Module], why: str, traced: bool
) -> None:
    torch.manual_seed(0)
    model, x = lively(make()), torch.randn(1, 2, 8, 8)
    before = model(x)
    report = fuse(model, example_inputs=None if traced else x)
    assert [(row.name, row.action, row.why) for row in report.rows] == [("n", "skip", why)]
    assert isinstance(model.n, nn.BatchNorm2d)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert str(report) == f"folded 0 of 1 BatchNorms\n  n: {why}"


def test_a_norm_of_a_sequence_axis_behind_a_linear_layer_stays() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 4)  # the norm is over axis 1, the layer's features are on axis 2
    before = model(x)
    report = fuse(model, example_inputs=x)
    assert report.rows[0].why == (
        "it may not normalize the features of this Linear: pass 2-D example_inputs"
    )
    assert torch.equal(model(x), before)


def test_norms_are_folded_one_by_one() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.add(net.n1(net.c1(x)), F.relu(net.n2(net.r(net.c2(x)))))

    model = lively(
        Net(
            run,
            c1=nn.Conv2d(1, 2, 3),
            n1=nn.BatchNorm2d(2),
            c2=nn.Conv2d(1, 2, 3),
            r=nn.ReLU(),
            n2=nn.BatchNorm2d(2),
            add=QuantAdd(),
        )
    )
    report = fuse(model, example_inputs=torch.randn(1, 1, 5, 5))
    assert report.folded == ("n1",)
    assert str(report) == "folded 1 of 2 BatchNorms\n  n2: r, before it, is a ReLU"


def test_a_model_without_norms_is_left_alone_in_any_mode() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).train()
    assert fuse(model).rows == ()
    assert model.training


@pytest.mark.parametrize(("name", "shown"), [("1", "1"), ("", "Sequential")])
def test_training_mode_is_refused_by_the_name_of_the_first_such_module(
    name: str, shown: str
) -> None:
    model = lively(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    model.get_submodule(name).train()
    with pytest.raises(StepError) as caught:
        fuse(model)
    assert str(caught.value) == (
        "fuse needs the model in eval mode, and it is in training mode\n"
        f"  at:  {shown}\n"
        "  fix: call model.eval() first"
    )


def test_a_forward_that_cannot_be_followed_needs_inputs() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.n(net.c(x)) if x.sum() > -1e9 else x

    model = lively(Net(run, c=nn.Conv2d(1, 2, 3), n=nn.BatchNorm2d(2)))
    with pytest.raises(StepError) as caught:
        fuse(model)
    assert str(caught.value) == (
        "torch.fx cannot follow this model's forward\n"
        "  at:  Net\n"
        "  fix: pass example_inputs=..., so that one forward can be recorded instead"
    )
    assert fuse(model, example_inputs=torch.randn(1, 1, 4, 4)).folded == ("n",)


def test_inputs_that_do_not_fit_change_nothing() -> None:
    model = lively(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match="does not take inputs"):
        fuse(model, example_inputs=torch.randn(1, 5, 4, 4))
    assert {key: value.tolist() for key, value in model.state_dict().items()} == {
        key: value.tolist() for key, value in before.items()
    }


def test_a_failure_at_the_second_norm_takes_the_first_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(
        nn.Sequential(
            nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        )
    )
    x = torch.randn(1, 1, 4, 4)
    before, modules = model(x), list(model)
    parameters = dict(model.named_parameters())
    calls: list[object] = []

    def fold_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return real(*args, **kwargs)

    real = fusing.fold
    monkeypatch.setattr(fusing, "fold", fold_once)
    with pytest.raises(RuntimeError, match="out of memory"):
        fuse(model, example_inputs=x)
    assert all(now is then for now, then in zip(model, modules, strict=True))
    assert model[0].bias is None
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(model.get_parameter(name) is each for name, each in parameters.items())
    assert torch.equal(model(x), before)
