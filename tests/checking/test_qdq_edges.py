"""The checker as a whole: what a violation says, what it counts, and whom it does not ask."""

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.checking.qdq_edges import CHECKS, missed_layers, quantized_layers, violations
from tests.checking.tiny_graphs import Net

SOURCES = [path for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_checker_knows_nothing_of_the_package_it_checks(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "qdq" for name in names)


def test_a_violation_says_which_rule_where_and_why(tmp_path: Path) -> None:
    net = Net()
    onnx.save(net.model(net.float_conv(net.pair("x"))), tmp_path / "m.onnx")
    (found,) = violations(tmp_path / "m.onnx", "tensorrt")
    assert str(found) == "T08 warn at Conv -> t2: c2 is float, the other int8"
    (found,) = violations(tmp_path / "m.onnx", "onnxruntime")[1:]
    assert str(found) == "O26 error at Conv -> t2: its weight c2 is float, its input int8"


@pytest.mark.parametrize("target", CHECKS)
def test_a_float_graph_breaks_no_rule(target: str) -> None:
    net = Net()
    y = net.op("Relu", net.float_conv("x"))
    y = net.op("Softmax", net.op("GlobalAveragePool", net.op("Add", y, "x")))
    assert violations(net.model(y), target) == []  # type: ignore[arg-type]


def test_layers_are_counted_by_operator() -> None:
    net = Net()
    y = net.conv(net.pair("x"))
    y = net.float_conv(net.op("MaxPool", net.pair(y), kernel_shape=[2, 2]))
    turned = net.op("Transpose", net.pair(y), perm=[0, 1, 3, 2])
    model = net.model(net.op("MatMul", net.pair(y), turned))
    assert quantized_layers(model) == {"Conv": (1, 2), "MatMul": (1, 1)}


def test_a_float_layer_is_missed_unless_a_rule_excuses_it() -> None:
    net = Net()
    y = net.op("Conv", "x", net.hold(np.ones((16, 2, 1, 1))))
    y = net.op("Conv", y, net.hold(np.ones((16, 16, 1, 1))))
    y = net.op("Conv", net.pair(y), net.weight((16, 16, 1, 1)))
    small = net.op("Conv", y, net.hold(np.ones((4, 16, 1, 3))))
    up = net.op("ConvTranspose", y, net.hold(np.ones((16, 16, 1, 1))))
    model = net.model(small, up)
    first, second = "Conv -> t0", "Conv -> t1"
    assert missed_layers(model, "tensorrt") == [first, second, f"ConvTranspose -> {up}"]
    assert missed_layers(model, "onnxruntime") == [first, second, f"Conv -> {small}"]
