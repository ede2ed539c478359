"""A variant's files are not reported for the rules that they break on purpose."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdq.export.writing import export_onnx
from qdq.graph.linting.judging import lint
from qdq.targets import get
from tests.export.export_nets import example, prepared


def test_a_portable_file_is_clean_for_its_own_variant_alone(tmp_path: Path) -> None:
    path, portable = tmp_path / "m.onnx", get("tensorrt:portable")
    export_onnx(prepared("identity_skip"), example("identity_skip"), path, target=portable)
    assert lint(path).target == "tensorrt"  # which the file says of itself
    assert lint(path).rows == ()
    plain = {row.rule for row in lint(path, "tensorrt").rows}
    assert plain
    assert plain <= set(portable.waived)


def test_data_that_is_constant_is_no_weight(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    held = {
        "x.codes": generator.integers(0, 255, (1, 2, 4, 4)).astype(np.uint8),
        "w.codes": generator.integers(-127, 127, (3, 2, 1, 1)).astype(np.int8),
        "scale": np.float32(0.1), "x.zero": np.uint8(3),
        "w.scale": np.full(3, 0.1, np.float32), "w.zero": np.zeros(3, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x.codes", "scale", "x.zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w.codes", "w.scale", "w.zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"], "conv"),
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])
    tensors = [numpy_helper.from_array(np.asarray(each), name) for name, each in held.items()]
    graph = helper.make_graph(nodes, "g", [], [y], tensors)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)
    assert "T03" not in {row.rule for row in lint(path, "tensorrt").rows}
