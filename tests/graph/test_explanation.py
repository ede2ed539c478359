"""Every node of every test model has one fate, and it is what onnxruntime's own graph shows."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from qdq.graph.coverage import integer_layers, optimized_ops
from qdq.graph.explaining.explanation import explain
from qdq.targets.rules import RULES
from tests.export.export_nets import NETS
from tests.graph.explained_files import ZOO, exported, file_of
from tests.graph.graph_sketch import Sketch

FILES = [(name, target) for name in NETS for target in ("onnxruntime", "tensorrt")]
FILES += [(name, target) for name in ZOO for target in ("onnxruntime", "tensorrt", "float")]
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1:UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning"),
]


@pytest.mark.parametrize(("name", "target"), FILES)
def test_all_nodes_and_all_kernels_are_accounted_for(name: str, target: str) -> None:
    path = exported(name, target)
    report = explain(path)
    source = onnx.load(path).graph.node
    assert [(each.name, each.op) for each in report.rows] == [(n.name, n.op_type) for n in source]
    assert Counter(each.op for each in report.kernels) == optimized_ops(path)
    assert all(each.nodes or each.near for each in report.kernels)
    workers = Counter(node for each in report.kernels for node in each.nodes)
    assert set(workers.values()) <= {1}
    for each in report.rows:
        assert (
            (each.name in workers)
            == (each.fate not in ("folded", "removed"))
            == (each.kernel != "")
        ), each
    doing = {node: kernel for kernel in report.kernels for node in kernel.nodes}
    for each in report.rows:
        if each.name in doing:
            assert (each.fate, each.kernel) == (doing[each.name].fate, doing[each.name].op)
        assert each.why
        assert each.rule in RULES or not each.rule


@pytest.mark.parametrize(("name", "target"), FILES)
def test_as_many_layers_run_in_integers_as_onnxruntime_has_kernels_for(
    name: str, target: str
) -> None:
    path = exported(name, target)
    report = explain(path)
    layers = [each for each in report.rows if each.op in LAYERS]
    counts = sum(each.fate == "integer" for each in layers), len(layers)
    assert counts == integer_layers(optimized_ops(path))


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mobilenet_v2"])
def test_nets_for_onnxruntime_run_all_their_macs_in_integers(name: str) -> None:
    report = explain(exported(name, "onnxruntime"))
    assert report.integer_macs == report.macs > 0
    assert all(each.rule == "" for each in report.rows if each.macs)


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mobilenet_v2", "senet", "unet"])
def test_layers_for_tensorrt_stay_float_in_onnxruntime_and_a_rule_says_why(name: str) -> None:
    report = explain(exported(name, "tensorrt"))
    layers = [each for each in report.rows if each.op in LAYERS and each.fate == "float"]
    assert layers
    for each in layers:
        assert each.rule.startswith("O") or "int8 codes of" in each.why, each


def test_a_float_file_has_no_integer_node_and_no_rule() -> None:
    report = explain(exported("resnet20", "float"))
    assert (report.integer_nodes, report.integer_macs) == (0, 0)
    assert {each.rule for each in report.rows} == {""}
    assert {each.why for each in report.rows if each.op == "Conv"} == {"no Q/DQ pair touches it"}


def test_macs_are_counted_by_hand_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    draw = Sketch("batch", 8, 6, 5)
    kernel = draw.constant("kernel", rng.normal(size=(12, 4, 3, 2)).astype(np.float32))
    wide = draw.node("Conv", draw.x, kernel, group=2)  # (batch, 12, 4, 4)
    flat = draw.node("Flatten", wide)
    matrix = draw.constant("matrix", rng.normal(size=(7, 192)).astype(np.float32))
    product = draw.node("Gemm", flat, matrix, transB=1)
    square = draw.constant("square", rng.normal(size=(7, 3)).astype(np.float32))
    path = file_of(draw.done(draw.node("MatMul", product, square), rank=2), tmp_path)
    one, three = explain(path), explain(path, sizes={"batch": 3})
    expected = {"Conv": 12 * 4 * 4 * 4 * 3 * 2, "Gemm": 7 * 192, "MatMul": 7 * 3}
    assert {each.op: each.macs for each in one.rows if each.macs} == expected
    assert one.macs == sum(expected.values())
    assert three.macs == 3 * one.macs


def test_a_deconvolution_and_a_recurrent_layer_count_as_their_operators_say(tmp_path: Path) -> None:
    draw = Sketch(1, 2, 4, 4)
    kernel = draw.constant("kernel", np.ones((2, 5, 3, 3), np.float32))
    path = file_of(draw.done(draw.node("ConvTranspose", draw.x, kernel)), tmp_path)
    assert explain(path).macs == 2 * 4 * 4 * 5 * 3 * 3
    draw = Sketch(6, 2, 3)  # length, batch, width
    weights = [draw.constant("w", np.ones((1, 16, 3), np.float32))]
    weights.append(draw.constant("r", np.ones((1, 16, 4), np.float32)))
    path = file_of(draw.done(draw.node("LSTM", draw.x, *weights, hidden_size=4)), tmp_path)
    assert explain(path).macs == 6 * 2 * 16 * (3 + 4)
