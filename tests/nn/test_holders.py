"""Who holds the quantizers of a call: nobody whose forward goes through its children."""

import copy
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.nn.holders import holder_of

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def conv(inputs: int = 4, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class DenseBlock(nn.ModuleDict):
    """Goes through its layers, each of which reads what all before it made."""

    def __init__(self) -> None:
        super().__init__({"a": conv(), "b": conv(8), "c": conv(12)})

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.values():
            found.append(layer(torch.cat(found, 1)))
        return torch.cat(found, 1)


class OverChildren(nn.Module):
    """Adds up what each of its children makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x) + x
        return x


class OverNamed(OverChildren):
    """The same, by their names."""

    def forward(self, x: Tensor) -> Tensor:
        return sum((layer(x) for _, layer in self.named_children()), x)


class OverDict(OverChildren):
    """The same, of torch's own dict."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._modules.values():
            assert layer is not None
            x = layer(x) + x
        return x


class Helped(OverChildren):
    """The same, in a method of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x) + x
        return x


def decorated(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(forward)
    def run(self: nn.Module, x: Tensor) -> Tensor:
        return forward(self, x)

    return run


class Decorated(OverChildren):
    """The same, in a forward that something is wrapped around."""

    forward = decorated(OverChildren.forward)


class Derived(OverChildren):
    """The same, and more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Residual(nn.Sequential):
    """A container that adds what it was given."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input


class Around(nn.Module):
    """A module around `inner`, with a call of its own."""

    def __init__(self, inner: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.stem, self.inner, self.head = conv(), inner, conv(width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x) + x)
        return self.head(self.inner(x))


INSIDE: dict[str, tuple[Callable[[], nn.Module], int, set[str]]] = {
    "ModuleDict": (DenseBlock, 16, {f"concat_{index}" for index in range(1, 4)}),
    "children": (OverChildren, 4, {"add_0", "add_1"}),
    "named_children": (OverNamed, 4, {"add_0", "add_1"}),
    "_modules": (OverDict, 4, {"add_0", "add_1"}),
    "helper": (Helped, 4, {"add_0", "add_1"}),
    "derived": (Derived, 4, {"add_0", "add_1"}),
    "decorated": (Decorated, 4, {"add_0", "add_1"}),
    "Sequential": (lambda: Residual(conv(), nn.ReLU(), conv()), 4, {"add_0"}),
    "Sequential of them": (
        lambda: nn.Sequential(Residual(conv()), Residual(conv())),
        4,
        {"0.add_0", "1.add_0"},
    ),
}


def prepared(name: str) -> nn.Module:
    torch.manual_seed(0)
    make, width, _ = INSIDE[name]
    model = Around(make(), width).eval()
    qdq.insert(model, X, target="onnxruntime")
    qdq.calibrate(model, [X], method="max", progress=False)
    return model


@pytest.mark.parametrize("name", INSIDE)
def test_a_module_that_goes_through_its_children_meets_no_quantizer(name: str) -> None:
    torch.manual_seed(0)
    make, width, calls = INSIDE[name]
    plain = Around(make(), width).eval()
    model = prepared(name)
    assert [key for key, _ in model.inner.named_children()] == [  # type: ignore[union-attr, operator]
        key for key, _ in plain.inner.named_children()
    ]
    sites = {site.rpartition(".")[0] for site in qdq.quantizers(model)}
    assert {f"inner.{call}" for call in calls} | {"add_0"} <= sites
    assert not torch.equal(model(X), plain(X))
    with qdq.disable_quantization(model):
        assert torch.equal(model(X), plain(X))


@pytest.mark.parametrize("name", INSIDE)
def test_its_calls_are_quantized_on_their_own_ranges(name: str) -> None:
    model, call = prepared(name), f"inner.{min(INSIDE[name][2])}"
    before = model(X)
    sites = qdq.quantizers(model, f"{call}.input_*")
    assert {each.on for each in sites.values()} == {True}
    for each in sites.values():
        each.set_range(0.0, 0.01)
    assert not torch.equal(model(X), before)


@pytest.mark.parametrize("name", INSIDE)
def test_a_copy_and_a_saved_one_quantize_the_same_calls(name: str, tmp_path: Path) -> None:
    model = prepared(name)
    want = model(X)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(X), want)
    for each in qdq.quantizers(copied, "inner").values():
        if each.calibrated:
            each.set_range(0.0, 0.01)
    assert not torch.equal(copied(X), want)
    assert torch.equal(model(X), want)
    qdq.save(model, tmp_path / "m.safetensors")
    make, width, _ = INSIDE[name]
    fresh = Around(make(), width).eval()
    qdq.load(fresh, tmp_path / "m.safetensors")
    assert torch.equal(fresh(X), want)


@pytest.mark.parametrize("name", INSIDE)
def test_weights_of_the_float_model_load_into_it(name: str) -> None:
    make, width, _ = INSIDE[name]
    torch.manual_seed(7)
    other = Around(make(), width)
    model = prepared(name)
    state = model.state_dict()
    assert set(other.state_dict()) <= set(state)
    model.load_state_dict({**state, **other.state_dict()}, strict=True)
    for key, weight in other.state_dict().items():
        assert torch.equal(model.state_dict()[key], weight)


def test_the_holder_is_the_maker_or_the_nearest_module_around_it() -> None:
    model = Around(nn.Sequential(OverChildren(), Residual(Around(conv()))))
    assert holder_of(model, "add_0") == ""
    assert holder_of(model, "inner.0.add_0") == ""
    assert holder_of(model, "inner.1.0.add_0") == "inner.1.0"
    assert holder_of(model, "inner.1.0.inner.conv_0") == "inner.1.0.inner"
    assert holder_of(OverChildren(), "add_0") is None
    assert holder_of(nn.Sequential(Residual(conv())), "0.add_0") is None


def test_an_attention_that_nobody_can_hold_is_left_with_the_reason() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.children():
                x = layer(x)
            return F.scaled_dot_product_attention(x, x, x)

    report = qdq.insert(Mixing().eval(), X, target="onnxruntime")
    why = {row.name: row.why for row in report.select("skip")}
    assert why["attention_0"].startswith("every module around it goes through its children")


class ByName(OverChildren):
    """Its forward calls methods of tensors that are called like a module's."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next(self.parameters()).dtype).float()
        return self.b(self.a(x) + x)


def test_a_name_that_modules_and_tensors_share_makes_nobody_go_through_children() -> None:
    assert holder_of(ByName(), "add_0") == ""
