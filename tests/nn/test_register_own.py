"""A user's own modules, registered: inserted, calibrated, exported, and run in onnxruntime."""

import copy
import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from qdq.nn import twins
from qdq.nn.twins import REFUSALS, TWINS

TARGETS = pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = [(held, dict(held)) for held in (TWINS, REFUSALS)]
    yield
    for held, was in before:
        held.clear()
        held.update(was)


class Gained(nn.Linear):
    """A layer with a weight: a linear layer with a gain."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.gain


class Energy(nn.Module):
    """A layer without a weight, which shares no code with torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * x).mean(-1, keepdim=True) + x


class Gate(nn.Module):
    """A layer with two inputs."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate.sigmoid()


def registered() -> dict[str, Any]:
    """Quantized classes for the three, as a user writes them."""

    @qdq.register(Gained)
    class QuantGained(qdq.nn.QuantWeighted, Gained):
        kind = "linear"

        def forward(self, input: Tensor) -> Tensor:
            x, weight, bias = self.quantized_operands(input)
            return self._output_quantizer(F.linear(x, weight, bias)) * self.gain

    @qdq.register(Energy)
    class QuantEnergy(Energy):
        kind = "energy"

        def add_quantizers(self) -> None:
            self._input_quantizer = qdq.TensorQuantizer()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self._input_quantizer(x))

    @qdq.register(Gate)
    class QuantGate(Gate):
        kind = "gate"

        def add_quantizers(self) -> None:
            self._input_quantizers = nn.ModuleList(qdq.TensorQuantizer() for _ in range(2))

        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            of_x, of_gate = self._input_quantizers
            return super().forward(of_x(x), of_gate(gate))

    return {each.__name__: each for each in (QuantGained, QuantEnergy, QuantGate)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.energy = Gained(6, 8), Energy()
        self.left, self.right, self.gate = nn.Linear(8, 8), nn.Linear(8, 8), Gate()
        self.last = Gained(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.energy(F.relu(self.first(x)))
        return self.last(self.gate(self.left(x), self.right(x)))


OWN = {"energy.input", "gate.input_0", "gate.input_1"} | {
    f"{name}.{role}" for name in ("first", "last") for role in ("input", "weight", "output")
}


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def data() -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def ready(target: str) -> Net:
    model = net()
    qdq.insert(model, data()[:2], target=target)
    qdq.calibrate(model, [data()], progress=False)
    return model


@TARGETS
def test_their_sites_are_placed_and_explained(target: str) -> None:
    classes = registered()
    model = net()
    report = qdq.insert(model, data()[:2], target=target)
    assert type(model.first) is classes["QuantGained"]
    assert type(model.energy) is classes["QuantEnergy"]
    assert type(model.gate) is classes["QuantGate"]
    assert set(qdq.quantizers(model)) >= OWN
    whys = {row.name: row.why for row in report.rows}
    assert all(whys[site] for site in OWN)
    on = {site for site, quantizer in qdq.quantizers(model).items() if quantizer.on}
    assert on >= {"first.input", "first.weight", "last.input", "last.weight", "energy.input"}


@TARGETS
def test_they_compute_the_same_in_onnxruntime(target: str, tmp_path: Path) -> None:
    registered()
    model = ready(target)
    path = tmp_path / "m.onnx"
    report = qdq.export_onnx(model, data()[:2], path)
    assert {row.site for row in report.rows} >= {"first.weight", "last.weight", "energy.input"}
    held = {each.name: each for each in onnx.load(path).graph.initializer}
    assert onnx.numpy_helper.to_array(held["first.weight.codes"]).dtype == np.int8
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": data().numpy()})
    np.testing.assert_allclose(found, model(data()).detach(), atol=1e-5)


@TARGETS
def test_rounding_is_felt_and_switches_take_it_away(target: str) -> None:
    registered()
    model, plain = ready(target), net()
    assert 1e-5 < float((model(data()) - plain(data())).detach().abs().max()) < 0.1
    with qdq.disable_quantization(model):
        assert torch.equal(model(data()), plain(data()))


def test_they_are_saved_and_loaded(tmp_path: Path) -> None:
    registered()
    model, fresh = ready("tensorrt"), net()
    qdq.save(model, tmp_path / "m.safetensors")
    qdq.load(fresh, tmp_path / "m.safetensors")
    assert torch.equal(fresh(data()), model(data()))
    assert torch.equal(copy.deepcopy(fresh)(data()), model(data()))


def test_without_a_twin_a_users_layer_stays_what_it_is_and_its_calls_are_sites() -> None:
    model = net()
    report = qdq.insert(model, data()[:2])
    left = {row.name: row.why for row in report.rows if row.action == "skip"}
    assert left["first"].startswith("a subclass of Linear, which may compute something else")
    assert (type(model.first), type(model.energy)) == (Gained, Energy)
    inside = {site for site in qdq.quantizers(model) if site.startswith(("first", "energy"))}
    assert inside == {f"first.linear_0.{role}" for role in ("input", "weight", "output")}


def test_the_example_of_the_documentation_runs() -> None:
    results = doctest.testmod(twins)
    assert results.attempted >= 6
    assert results.failed == 0
