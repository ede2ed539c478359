"""Which regions TensorRT's rules make of small graphs, said by hand, and of whole nets."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from qdq.graph.explaining.explanation import explain
from qdq.records.explanation import ExplanationReport
from tests.export.export_nets import NETS
from tests.graph.explained_files import ZOO, exported, file_of
from tests.graph.graph_sketch import Sketch

FILES = [(name, target) for name in NETS for target in ("onnxruntime", "tensorrt")]
FILES += [(name, target) for name in ZOO for target in ("onnxruntime", "tensorrt", "float")]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1:UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning"),
]


class Signed(Sketch):
    """A sketch with pairs as TensorRT wants them: int8 around 0."""

    def __init__(self) -> None:
        super().__init__(1, 8, 6, 6)

    def int8(self, x: gs.Tensor, site: str, scale: float = 0.1) -> gs.Tensor:
        return self.pair(x, site, scale, kind=np.int8)

    def layer(self, x: gs.Tensor) -> gs.Tensor:
        return self.integer_conv(x, 8, 8, 1, 1, bias="float")


def regions(report: ExplanationReport) -> list[tuple[str, str]]:
    return [(each.op, each.fate) for each in report.kernels]


def explained(draw: Sketch, folder: Path, *results: gs.Tensor) -> ExplanationReport:
    return explain(file_of(draw.done(*results), folder), "tensorrt")


@pytest.mark.parametrize(("name", "target"), FILES)
def test_every_node_is_in_one_region_or_needs_none(name: str, target: str) -> None:
    path = exported(name, target)
    report = explain(path, "tensorrt")
    names = [node.name for node in onnx.load(path).graph.node]
    assert [each.name for each in report.rows] == names
    members = Counter(node for each in report.kernels for node in each.nodes)
    assert set(members.values()) <= {1}
    for each in report.rows:
        assert (each.name in members) == (each.fate not in ("folded", "removed")), each
        assert each.why
    doing = {node: kernel for kernel in report.kernels for node in kernel.nodes}
    for each in report.rows:
        if each.name in doing:
            assert (each.fate, each.kernel) == (doing[each.name].fate, doing[each.name].op)


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mobilenet_v2", "senet", "unet"])
def test_nets_for_tensorrt_run_all_their_macs_in_integers(name: str) -> None:
    report = explain(exported(name, "tensorrt"), "tensorrt")
    assert report.integer_macs == report.macs > 0


def test_a_float_net_has_no_integer_region() -> None:
    report = explain(exported("resnet20", "float"), "tensorrt")
    assert "integer" not in {each.fate for each in report.kernels}
    fused = Counter(each.op for each in report.kernels)
    assert (fused["Conv+Relu"], fused["Conv+Add+Relu"]) == (1 + 9, 9)
    assert {each.rule for each in report.rows} == {""}


def test_a_residual_block_is_two_regions(tmp_path: Path) -> None:
    draw = Signed()
    x = draw.int8(draw.x, "in")
    inner = draw.int8(draw.node("Relu", draw.layer(x)), "inner")
    added = draw.node("Add", draw.layer(inner), x)
    out = draw.int8(draw.node("Relu", added), "out")
    report = explained(draw, tmp_path, out)
    assert regions(report) == [
        ("QuantizeLinear", "convert"),
        ("Conv+Relu", "integer"),
        ("Conv+Add+Relu", "integer"),
        ("DequantizeLinear", "convert"),
    ]
    assert "out/QuantizeLinear" in report.kernels[2].nodes
    assert report.integer_nodes == 5


def test_a_pair_between_a_layer_and_its_addition_splits_the_region(tmp_path: Path) -> None:
    draw = Signed()
    x = draw.int8(draw.x, "in")
    side = draw.int8(draw.layer(x), "side")
    out = draw.int8(draw.node("Add", side, draw.int8(draw.x, "skip")), "out")
    report = explained(draw, tmp_path, out)
    assert ("Conv", "integer") in regions(report)
    assert ("Add", "integer") in regions(report)
    assert {each.rule for each in report.rows if each.op == "Add"} == {"T12"}


def test_silu_is_one_region_with_its_layer(tmp_path: Path) -> None:
    draw = Signed()
    y = draw.layer(draw.int8(draw.x, "in"))
    out = draw.int8(draw.node("Mul", y, draw.node("Sigmoid", y)), "out")
    assert ("Conv+Sigmoid+Mul", "integer") in regions(explained(draw, tmp_path, out))


def test_a_layer_without_a_q_behind_it_still_runs_in_integers(tmp_path: Path) -> None:
    draw = Signed()
    report = explained(draw, tmp_path, draw.layer(draw.int8(draw.x, "in")))
    assert regions(report) == [("QuantizeLinear", "convert"), ("Conv", "integer")]


def test_a_layer_with_one_float_factor_is_float(tmp_path: Path) -> None:
    draw = Signed()
    report = explained(draw, tmp_path, draw.layer(draw.node("Exp", draw.x)))
    conv = next(each for each in report.rows if each.op == "Conv")
    assert (conv.fate, conv.rule) == ("float", "T08")
    weight = next(each for each in report.rows if each.name == "conv_0.weight/DequantizeLinear")
    assert weight.fate == "folded"


def test_a_max_pool_lets_the_q_behind_it_pass(tmp_path: Path) -> None:
    draw = Signed()
    clamped = draw.node("Relu", draw.layer(draw.int8(draw.x, "in")))
    out = draw.int8(draw.node("MaxPool", clamped, kernel_shape=[2, 2]), "out")
    report = explained(draw, tmp_path, out)
    assert regions(report)[1:3] == [("Conv+Relu", "integer"), ("MaxPool", "integer")]
    assert "out/QuantizeLinear" in report.kernels[1].nodes


@pytest.mark.parametrize(("behind", "fate"), [(True, "integer"), (False, "float")])
def test_a_pool_needs_a_pair_on_both_sides(tmp_path: Path, behind: bool, fate: str) -> None:
    draw = Signed()
    pooled = draw.node("AveragePool", draw.int8(draw.x, "in"), kernel_shape=[2, 2])
    report = explained(draw, tmp_path, draw.int8(pooled, "out") if behind else pooled)
    row = next(each for each in report.rows if each.op == "AveragePool")
    assert (row.fate, row.rule) == (fate, "" if behind else "T13")


def test_a_curve_between_pairs_stays_float(tmp_path: Path) -> None:
    draw = Signed()
    out = draw.int8(draw.node("Tanh", draw.int8(draw.x, "in")), "out")
    report = explained(draw, tmp_path, out)
    row = next(each for each in report.rows if each.op == "Tanh")
    assert (row.fate, row.rule) == ("float", "T21")


def test_pointwise_operators_in_a_row_are_one_float_region(tmp_path: Path) -> None:
    draw = Signed()
    bent = draw.node("Relu", draw.node("Exp", draw.node("Abs", draw.x)))
    assert regions(explained(draw, tmp_path, bent)) == [("Abs+Exp+Relu", "float")]


def test_a_layer_norm_is_one_float_region(tmp_path: Path) -> None:
    draw = Signed()
    mean = draw.node("ReduceMean", draw.x, axes=[-1])
    centered = draw.node("Sub", draw.x, mean)
    squared = draw.node("Pow", centered, draw.constant("two", np.float32(2)))
    variance = draw.node("ReduceMean", squared, axes=[-1])
    spread = draw.node("Sqrt", draw.node("Add", variance, draw.constant("tiny", np.float32(1e-5))))
    report = explained(draw, tmp_path, draw.node("Div", centered, spread))
    (kernel,) = report.kernels
    assert kernel.fate == "float"
    assert len(kernel.nodes) == 7
    assert {each.rule for each in report.rows} == {"T20"}
