"""What is said of a call that did not happen when the forward was recorded, and where."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.nn import QuantWeighted
from qdq.nn.twins import TWINS, register

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


class Branching(nn.Module):
    """Another way for another input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x: Tensor, more: bool = False) -> Tensor:
        x = self.a(x) + x
        return self.b(x) * x.flip(3) + x if more else self.b(x)


def branching() -> nn.Module:
    torch.manual_seed(0)
    model = Branching().eval()
    qdq.insert(model, X, target="onnxruntime")
    qdq.calibrate(model, [X], method="max", progress=False)
    return model


def test_a_call_that_was_not_recorded_runs_float_and_is_reported_by_its_name() -> None:
    model = branching()
    with pytest.warns(RuntimeWarning) as caught:
        model(X, True)
    assert [str(each.message) for each in caught] == [
        f"the call {name} did not happen when qdq.insert recorded the forward: it runs float; "
        "pass example inputs that take this way to qdq.insert"
        for name in ("mul_0", "add_1")
    ]
    model(X)  # the recorded way still runs, and warns of nothing


def test_a_call_inside_is_reported_with_the_path_of_its_module() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Branching()

        def forward(self, x: Tensor, more: bool = False) -> Tensor:
            return self.net(x, more)

    model = Outer().eval()
    qdq.insert(model, X, target="onnxruntime")
    qdq.calibrate(model, [X], method="max", progress=False)
    with pytest.warns(RuntimeWarning) as caught:
        model(X, True)
    assert [str(each.message).split()[2] for each in caught] == ["net.mul_0", "net.add_1"]


def test_a_model_inserted_without_a_forward_reports_nothing() -> None:
    model = Branching().eval()
    qdq.insert(model, target="tensorrt")
    with qdq.disable_quantization(model):
        model(X, True)


def test_the_inside_of_a_users_own_twin_is_no_unrecorded_call() -> None:
    class Mine(nn.Linear):
        """A layer of the user's."""

    class QuantMine(QuantWeighted, Mine):
        kind = "linear"

        def forward(self, input: Tensor) -> Tensor:
            return F.linear(*self.quantized_operands(input))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mine, self.last = Mine(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.mine(x) + x)

    register(Mine)(QuantMine)
    try:
        model = Net().eval()
        qdq.insert(model, X, target="onnxruntime")
        assert type(model.mine) is QuantMine
        qdq.calibrate(model, [X], method="max", progress=False)
        assert model(X).shape == X.shape
    finally:
        del TWINS[Mine]
