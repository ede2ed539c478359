"""Residual additions: which are chosen, where each target puts its pairs, and what runs."""

import copy
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from models.residual import BasicBlock, PaddedShortcut
from models.resnet import resnet20
from qdq.insertion.policies import Policy
from qdq.insertion.recording import record
from qdq.insertion.selecting import select
from qdq.records.decisions import InsertReport

IMAGES = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
TARGETS = ("tensorrt", "onnxruntime")


class Skipping(nn.Module):
    """Two convolutions and whatever `run` makes of them."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.offset = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("shift", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class SumOfAll(nn.Sequential):
    """A container whose own forward adds."""

    def forward(self, input: Tensor) -> Tensor:
        for module in self:
            input = module(input) + input
        return input


def identity_skip(net: Any, x: Tensor) -> Tensor:
    return F.relu(net.conv2(F.relu(net.conv1(x))) + x)


def inserted(model: nn.Module, **options: Any) -> tuple[nn.Module, InsertReport]:
    torch.manual_seed(0)
    model = model.eval()
    return model, qdq.insert(model, IMAGES, **options)


def chosen(model: nn.Module, **options: Any) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the call sites, and why which others are left."""
    model = model.eval()
    graph, modules = record(model, IMAGES), dict(model.named_modules())
    policy = Policy(options.get("ignore", ()), options.get("only", ()), {}, modules, graph)
    found = select(model, graph, policy)
    names = tuple(site.name for site in found.calls)
    return names, {row.name: row.why for row in found.left}


def actions(report: InsertReport, prefix: str) -> dict[str, str]:
    return {row.name: row.action for row in report.rows if row.name.startswith(prefix)}


ON_BOTH = {"add_0.input_0": "quantize", "add_0.input_1": "quantize", "add_0.output": "quantize"}


@pytest.mark.parametrize("order", ["skip last", "skip first"])
def test_for_tensorrt_only_the_skip_branch_gets_a_pair(order: str) -> None:
    last = order == "skip last"
    run = identity_skip if last else lambda net, x: x + net.conv2(F.relu(net.conv1(x)))
    skip, fused = ("input_1", "input_0") if last else ("input_0", "input_1")
    _, report = inserted(Skipping(run), target="tensorrt")
    assert actions(report, "add_0") == {
        f"add_0.{fused}": "off",
        f"add_0.{skip}": "quantize",
        "add_0.output": "off",
    }


def test_for_onnxruntime_both_inputs_and_the_output_get_pairs() -> None:
    model, report = inserted(Skipping(identity_skip), target="onnxruntime")
    assert actions(report, "add_0") == ON_BOTH
    assert actions(qdq.retarget(model, "tensorrt"), "add_0")["add_0.input_0"] == "off"
    assert actions(qdq.retarget(model, "onnxruntime"), "add_0") == ON_BOTH


@pytest.mark.parametrize("target", TARGETS)
def test_of_two_convolutions_the_one_on_the_longer_way_is_fused(target: str) -> None:
    block = BasicBlock(4, 8, 2, nn.Conv2d(4, 8, 1, 2, bias=False))
    _, report = inserted(block, target=target)
    on = {name for name, action in actions(report, "add_0").items() if action == "quantize"}
    assert on == ({"add_0.input_1"} if target == "tensorrt" else set(ON_BOTH))


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda net, x: net.conv1(x) + net.offset, "one side is a constant (T23)"),
        (lambda net, x: net.offset + net.conv1(x), "one side is a constant (T23)"),
        (lambda net, x: net.conv1(x) + net.shift, "one side is a constant (T23)"),
        (lambda net, x: net.conv1(x) + 1, "one side is a constant (T23)"),
        (lambda net, x: 1 + net.conv1(x), "one side is a constant (T23)"),
        (lambda net, x: net.conv1(x) + torch.ones(4, 1, 1), "one side is a constant (T23)"),
    ],
)
def test_a_constant_side_leaves_the_addition_float_and_says_so(run: Any, why: str) -> None:
    torch.manual_seed(0)
    additions, left = chosen(Skipping(lambda net, x: net.conv2(run(net, x))))
    assert additions == ()
    assert left == {"add_0": why}


def test_a_scaled_addition_is_left_alone_but_counted() -> None:
    run = lambda net, x: torch.add(net.conv1(x), x, alpha=2) + net.conv2(x)  # noqa: E731
    model, report = inserted(Skipping(run), target="onnxruntime")
    why = {row.name: row.why for row in report.rows}
    assert why["add_0"] == "a scaled sum, integers among its operands, or a weight that is computed"
    assert set(actions(report, "add_1")) == {"add_1.input_0", "add_1.input_1", "add_1.output"}
    qdq.calibrate(model, [IMAGES], progress=False)


def test_an_addition_of_two_functions_of_one_tensor_is_no_residual_one() -> None:
    calls, left = chosen(Skipping(lambda net, x: net.conv1(F.relu(x) + torch.sigmoid(x))))
    assert calls == ()
    assert left == {
        "add_0": "part of an activation or a normalization, which is one float region (T20, T24)",
        "conv2": "the recorded forward never calls it",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_an_addition_of_no_integer_op_is_a_site_that_is_off(target: str) -> None:
    model = Skipping(lambda net, x: net.conv2(net.conv1(x.flip(3) + x)))
    _, report = inserted(model, target=target)
    assert set(actions(report, "add_0").values()) == {"off"}
    why = {row.why for row in report.rows if row.name.startswith("add_0")}
    assert why == {"no integer op makes what this add reads (T28, O13)"}


def test_a_convolution_with_another_reader_cannot_take_the_addition() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.conv1(x)
        return net.conv2(y + x) - y

    _, report = inserted(Skipping(run), target="tensorrt")
    assert actions(report, "add_0") == ON_BOTH | {"add_0.output": "off"}


def test_an_addition_called_twice_is_left_with_the_count() -> None:
    block = Skipping(identity_skip)
    left_by_name = chosen(nn.Sequential(block, nn.Conv2d(4, 4, 1), block))[1]
    for name in ("0.conv1", "0.conv2", "0.add_0"):
        assert left_by_name[name].startswith("called 2 times in one forward")

    stem = nn.Conv2d(4, 4, 1)

    class Adding(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.adding = stem, nn.Conv2d(4, 4, 1), Adding()

        def forward(self, x: Tensor) -> Tensor:
            x = self.adding(self.stem(x), x)
            return self.adding(self.conv(x), x)

    additions, left = chosen(Sharing())
    assert additions == ()
    assert left == {
        "adding.add_0": "called 2 times in one forward, and one range would have to serve all"
    }


def test_a_container_that_adds_keeps_its_children_as_they_are() -> None:
    model = SumOfAll(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    additions, left = chosen(model)
    why = "every module around it goes through its children, and would meet the quantizers"
    assert additions == ()
    assert left == {"add_0": why, "add_1": why}
    qdq.insert(model, IMAGES)
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    qdq.calibrate(model, [IMAGES], progress=False)
    assert model(IMAGES).shape == IMAGES.shape


def twins() -> nn.Module:
    return nn.Sequential(Skipping(identity_skip), Skipping(identity_skip))


def test_ignore_leaves_a_call_site_float_by_its_name() -> None:
    for ignore in ("1.add_0", r"re:1\.add", ["1.add_*"]):
        additions, left = chosen(twins(), ignore=ignore)
        assert additions == ("0.add_0",)
        assert left["1.add_0"].startswith("ignored by ")


def test_ignoring_a_block_ignores_its_additions() -> None:
    additions, left = chosen(twins(), ignore="1")
    assert additions == ("0.add_0",)
    assert set(left) == {"1.conv1", "1.conv2", "1.add_0"}


def test_ignoring_the_convolution_leaves_its_addition_float_too() -> None:
    _, report = inserted(twins(), target="tensorrt", ignore="1.conv2")
    assert set(actions(report, "1.add_0").values()) == {"off"}
    assert "quantize" in actions(report, "0.add_0").values()


def test_only_names_call_sites_too() -> None:
    additions, left = chosen(twins(), only=["0.conv*", "1"])
    assert additions == ("1.add_0",)
    assert left == {"0.add_0": "only= does not name it"}


def test_a_pattern_that_fits_no_call_site_is_refused() -> None:
    with pytest.raises(qdq.QdqError, match=r"ignore pattern '\*.add_7' fits nothing"):
        chosen(twins(), ignore="*.add_7")


def test_without_a_forward_no_addition_is_chosen() -> None:
    model = twins().eval()
    assert select(model, None, Policy((), (), {}, dict(model.named_modules()), None)).calls == ()


def test_without_inputs_the_traced_forward_gives_the_same_sites() -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 8, 2, nn.Conv2d(4, 8, 1, 2))).eval()

    for target in TARGETS:
        with_inputs, without = net(), net()
        recorded = qdq.insert(with_inputs, IMAGES, target=target)
        traced = qdq.insert(without, target=target)
        assert actions(traced, "") == actions(recorded, "")
        assert {"0.add_0.input_1", "1.add_0.input_1"} <= set(actions(traced, ""))


CIFAR = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@cache
def calibrated() -> nn.Module:
    torch.manual_seed(0)
    model = resnet20().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    qdq.insert(model, CIFAR, target="onnxruntime")
    qdq.calibrate(model, [CIFAR], method="max", progress=False)
    return model


def resnet(target: str) -> nn.Module:
    model = copy.deepcopy(calibrated())
    qdq.retarget(model, target)
    return model


BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


def test_in_a_resnet_every_block_has_one_call_site_padded_shortcuts_included() -> None:
    sites = {site.rpartition(".")[0] for site in qdq.quantizers(calibrated())}
    assert {site for site in sites if "add" in site} == {f"{block}.add_0" for block in BLOCKS}
    for target in TARGETS:
        on = {name for name, q in qdq.quantizers(resnet(target)).items() if q.on and "add" in name}
        skips = {f"{block}.add_0.input_1" for block in BLOCKS}
        if target == "tensorrt":
            assert on == skips
        else:
            assert skips | {f"{block}.add_0.input_0" for block in BLOCKS} <= on


def session(path: Path, level: Any, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_for_onnxruntime_a_resnet_runs_in_integers_throughout(tmp_path: Path) -> None:
    path, optimized = tmp_path / "m.onnx", tmp_path / "o.onnx"
    qdq.export_onnx(resnet("onnxruntime"), CIFAR, path)
    session(path, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, optimized)
    ops = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    assert ops["QLinearConv"] == 19 + 2  # the shortcuts that pick channels too
    assert ops["QLinearAdd"] == 9
    assert ops["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add"} & set(ops)


def test_for_tensorrt_a_resnet_has_pairs_on_skip_branches_only(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    qdq.export_onnx(resnet("tensorrt"), CIFAR, path)
    graph = onnx.load(path).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    found = [sorted(makers[name] for name in n.input) for n in graph.node if n.op_type == "Add"]
    assert found == [["Conv", "DequantizeLinear"]] * 9


BLOCK_KINDS: dict[str, Callable[[], nn.Module]] = {
    "identity": lambda: BasicBlock(4, 4),
    "projected": lambda: BasicBlock(4, 8, 2, nn.Conv2d(4, 8, 1, 2)),
    "padded": lambda: BasicBlock(4, 8, 2, PaddedShortcut(4)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_an_unoptimized_block_computes_exactly_what_torch_simulates(
    tmp_path: Path, kind: str, target: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), BLOCK_KINDS[kind]()).eval()
    qdq.insert(model, IMAGES, target=target)
    qdq.calibrate(model, [IMAGES], method="max", progress=False)
    qdq.export_onnx(model, IMAGES, tmp_path / "m.onnx")
    running = session(tmp_path / "m.onnx", ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    got = running.run(None, {"input": IMAGES.numpy()})[0]
    with torch.no_grad():
        want = model(IMAGES).numpy()
        with qdq.disable_quantization(model):
            assert np.abs(model(IMAGES).numpy() - want).max() > 1e-4
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_an_unoptimized_resnet_computes_what_torch_simulates(tmp_path: Path, target: str) -> None:
    model, path = resnet(target), tmp_path / "m.onnx"
    qdq.export_onnx(model, CIFAR, path)
    got = session(path, ort.GraphOptimizationLevel.ORT_DISABLE_ALL).run(
        None, {"input": CIFAR.numpy()}
    )[0]
    with torch.no_grad():
        want = model(CIFAR).numpy()
        with qdq.disable_quantization(model):
            floating = model(CIFAR).numpy()
    # sums in another order move values that lie between two codes by one step
    flips = float(np.sqrt(np.mean((got - want) ** 2)))
    rounding = float(np.sqrt(np.mean((floating - want) ** 2)))
    assert flips < 0.5 * rounding
