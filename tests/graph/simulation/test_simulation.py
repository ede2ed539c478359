"""simulate: whole files, what differs, and what it is put down to."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.resnet import resnet20
from qdq.calibration.choosing import calibrate
from qdq.data.opening import open_source
from qdq.data.sources import Request
from qdq.errors import GraphError, InputError
from qdq.export.writing import export_onnx
from qdq.graph.linting.reading import read_model
from qdq.graph.simulation import comparison
from qdq.graph.simulation.comparison import simulate
from qdq.graph.simulation.kernels import KERNELS
from qdq.graph.simulation.sessions import Observed
from qdq.insertion.replacing import insert
from qdq.insertion.weights import load_tensors, read_weights
from qdq.records.simulation import SimulationReport
from tests.export.export_nets import NETS
from tests.graph.explained_files import exported, file_of, image, model_of
from tests.graph.graph_sketch import Sketch
from tests.graph.simulation.simulated_nodes import Array, integer_kernels, x86_kernels

DATA = Path(os.environ.get("QDQ_DATA", Path(__file__).parents[4] / "shared" / "data"))
WEIGHTS = DATA / "cifar10" / "weights" / "resnet20.safetensors"

pytestmark = x86_kernels


def batches(path: Path, count: int = 2) -> Iterator[dict[str, Array]]:
    """Random inputs of a file, three rows each; zeros and ones for what is no float."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        feeds = {}
        for each in read_model(path).graph.input:
            kind = each.type.tensor_type
            shape = [size.dim_value or 3 for size in kind.shape.dim]
            floats = kind.elem_type == TensorProto.FLOAT
            drawn = rng.standard_normal(shape) if floats else rng.integers(0, 2, shape)
            feeds[each.name] = drawn.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        yield feeds


@integer_kernels
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("name", [*NETS, "lenet", "transformer"])
def test_every_code_of_a_net_is_predicted(name: str, target: str) -> None:
    path = exported(name, target)
    report = simulate(path, batches(path))
    assert report.is_exact
    assert (report.codes_differing, report.outputs_differing) == (0, 0)
    assert report.codes > 50
    assert report.outputs > 0
    assert {row.by for row in report.rows if row.kind == "codes"} <= {"numpy", "onnxruntime"}
    assert all(row.by == "numpy" for row in report.rows if row.op.startswith("QLinear"))
    assert "differ" in str(report)


def chain(folder: Path) -> Path:
    """Two layers in integers, one in float behind them."""
    draw = Sketch("batch", 4, 6, 6)
    x = draw.integer_conv(draw.pair(draw.x, "in"), 8, 4, 3, 3)
    x = draw.integer_conv(draw.pair(draw.node("Relu", x), "mid"), 4, 8, 1, 1)
    x = draw.node("Tanh", draw.pair(draw.node("Relu", x), "out"))
    return file_of(draw.done(x), folder)


def wrong(monkeypatch: pytest.MonkeyPatch, op: tuple[str, str], change: Any) -> None:
    right = KERNELS[op]
    monkeypatch.setitem(KERNELS, op, lambda *given: change(right(*given)))


def test_a_kernel_that_computes_otherwise_is_found_counted_and_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_code_off(y: Array) -> Array:
        y = y.copy()
        y.flat[0] += 3 if y.flat[0] < 100 else -3
        return y

    wrong(monkeypatch, ("", "QLinearConv"), first_code_off)
    wrong(monkeypatch, ("com.microsoft", "QLinearConv"), first_code_off)
    monkeypatch.setattr(comparison, "_cpu_flags", lambda: "avx2")
    path = chain(tmp_path)
    report = simulate(path, batches(path))
    first, second = (row for row in report.rows if row.op == "QLinearConv")
    assert (first.differing, first.own, first.largest) == (2, 2, 3.0)  # one in each batch
    assert first.why.startswith("this CPU's kernel does not sum in full range: without VNNI")
    assert second.own == 2
    assert second.differing >= second.own
    tanh = next(row for row in report.rows if row.op == "Tanh")
    assert (tanh.by, tanh.kind, tanh.own) == ("onnxruntime", "values", 0)
    assert tanh.differing > 0
    assert tanh.why == f"follows from {second.name}"
    assert not report.is_exact
    assert report.outputs_differing == tanh.differing
    assert report.codes_differing >= 4
    shown = str(report)
    assert f"{first.name} (QLinearConv): 2 of {first.values:,} codes, up to 3: " in shown
    assert "Tanh" not in shown


def test_a_float_node_that_differs_alone_is_put_down_to_its_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = chain(tmp_path)
    plain = comparison.Execution.run

    def rounded(self: Any, step: Any, values: Any) -> Any:
        made, by = plain(self, step, values)
        if step.node.op_type == "Tanh":
            made = {name: np.nextafter(each, np.float32(2)) for name, each in made.items()}
        return made, by

    monkeypatch.setattr(comparison.Execution, "run", rounded)
    row = next(row for row in simulate(path, batches(path)).rows if row.op == "Tanh")
    assert row.own == row.differing == row.values
    assert 0 < row.largest < 1e-6
    assert row.why == "run alone, this kernel sums floats in another order"


def test_a_float_file_is_run_node_by_node_and_is_exact() -> None:
    path = exported("lenet", "float")
    feeds = {"input": image(2, 1, 32, 32).numpy()}
    report = simulate(path, [feeds])
    assert report.is_exact
    assert report.codes == 0
    assert any(row.by == "onnxruntime" for row in report.rows)
    assert "none of 0 codes and none of 20 output values differ; 100.00% equal top-1" in str(report)


def test_a_node_may_make_a_single_number(tmp_path: Path) -> None:
    draw = Sketch(2, 3)
    largest = draw.node("ReduceMax", draw.x, keepdims=0)
    path = file_of(draw.done(draw.node("Tanh", draw.pair(largest, "a", kind=np.int8))), tmp_path)
    report = simulate(path, batches(path))
    assert report.is_exact
    assert report.agreement is None
    assert [row.values for row in report.rows] == [2] * len(report.rows)


def test_tensors_without_entries_are_left_to_onnxruntime(tmp_path: Path) -> None:
    draw = Sketch(0, 4, 2, 2)
    x = draw.node("SpaceToDepth", draw.pair(draw.x, "a"), blocksize=2)
    path = file_of(draw.done(draw.pair(x, "b"), rank=4), tmp_path)
    report = simulate(path, [{"x": np.zeros((0, 4, 2, 2), np.float32)}])
    assert report.is_exact
    assert {row.by for row in report.rows} == {"onnxruntime"}
    assert report.outputs == 0


def test_a_graph_whose_inner_tensors_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    path = chain(tmp_path)
    with pytest.raises(GraphError, match="this file with its inner tensors as outputs") as caught:
        Observed(onnx.load(path), path).run({"x": np.zeros((1, 5, 6, 6), np.float32)})
    assert caught.value.at == str(path)


def test_a_node_with_a_second_output_is_left_to_onnxruntime(tmp_path: Path) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2])
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.UINT8, "places": TensorProto.INT64}
    x, *made = (
        helper.make_tensor_value_info(name, kind, [1, 1, 4 if name == "x" else 3, None])
        for name, kind in kinds.items()
    )
    graph = helper.make_graph([pool], "g", [x], made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    codes = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    report = simulate(file_of(model, tmp_path), [{"x": codes}])
    assert report.is_exact
    assert [row.by for row in report.rows] == ["onnxruntime"]


def test_a_sequence_is_named_as_what_cannot_be_simulated(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        helper.make_node("SequenceAt", ["parts", "zero"], ["y"], name="pick"),
    ]
    zero = helper.make_tensor("zero", TensorProto.INT64, [], [0])
    path = file_of(model_of(nodes, zero), tmp_path)
    with pytest.raises(GraphError, match="onnxruntime does not run SequenceAt alone") as caught:
        simulate(path, [{"x": np.zeros((2, 2), np.float32)}])
    assert caught.value.at == "pick"


def test_outputs_may_be_constants_and_inputs(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Relu", ["x"], ["y"])],
        helper.make_tensor("c", TensorProto.FLOAT, [1], [2.0]),
    )
    for name, shape in (("c", [1]), ("x", [2, 2])):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    report = simulate(file_of(model, tmp_path), [{"x": np.zeros((2, 2), np.float32)}])
    assert (report.outputs, report.outputs_differing) == (9, 0)


def test_weights_may_lie_outside_the_file(tmp_path: Path) -> None:
    model = onnx.load(exported("lenet", "onnxruntime"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=16, location="m.data")
    assert simulate(path, batches(path)).is_exact


def test_branches_read_what_lies_around_them(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["around", "x"], ["sum"])], "b", [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["around"], ["copy"])], "c", [],
        [helper.make_tensor_value_info("copy", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Exp", ["x"], ["around"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch, else_branch=other),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    path = file_of(model_of(nodes, zero), tmp_path)
    data = [{"x": np.full((2, 2), sign, np.float32)} for sign in (1, -1)]
    report = simulate(path, data)
    assert report.is_exact
    assert next(row.by for row in report.rows if row.op == "If") == "onnxruntime"


def test_the_last_batch_may_be_smaller_and_nodes_may_have_no_names(
    tmp_path: Path,
) -> None:
    path = chain(tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    (whole,) = batches(path, 1)
    report = simulate(path, [whole, {"x": whole["x"][:1]}])
    assert report.is_exact
    assert report.samples == 4
    assert "Tanh -> Tanh_0.out" in [row.name for row in report.rows]


def test_a_record_comes_back_from_its_dictionary(tmp_path: Path) -> None:
    path = chain(tmp_path)
    report = simulate(path, batches(path))
    assert SimulationReport.from_dict(report.to_dict()) == report


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    path = chain(tmp_path)
    with pytest.raises(InputError, match="the data holds no batch"):
        simulate(path, [])
    with pytest.raises(InputError, match=r"onnxruntime does not take x \(1, 5, 6, 6\)"):
        simulate(path, [{"x": np.zeros((1, 5, 6, 6), np.float32)}])
    wrong_data: Any
    for wrong_data, kind in ((next(batches(path, 1)), "str"), ([np.zeros(2)], "ndarray")):
        with pytest.raises(InputError, match=f"a batch is a {kind}, not arrays by name"):
            simulate(path, wrong_data)
    with pytest.raises(GraphError, match="there is no such ONNX file"):
        simulate(tmp_path / "none.onnx", [])
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:40])
    with pytest.raises(GraphError, match="this is no valid ONNX model"):
        simulate(tmp_path / "broken.onnx", [])


@pytest.mark.slow
@integer_kernels
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="QDQ_DATA holds no ResNet-20")
def test_resnet_20_with_real_weights_is_predicted_code_for_code(tmp_path: Path) -> None:
    model = resnet20()
    load_tensors(model, read_weights(WEIGHTS), at=str(WEIGHTS))
    train, test = (
        open_source("cifar10", Request(split=split, batch_size=64, path=str(DATA)))
        for split in ("train", "test")
    )
    images = next(iter(train))[0]  # type: ignore[index]
    insert(model.eval(), images, target="onnxruntime")
    calibrate(model, train, method="percentile", batches=2, progress=False)
    export_onnx(model, images, tmp_path / "m.onnx")
    feeds = ({"input": batch[0].numpy()} for batch, _ in zip(test, range(4), strict=False))  # type: ignore[index]
    report = simulate(tmp_path / "m.onnx", feeds)
    assert report.samples == 256
    assert report.is_exact
    assert report.codes_differing == 0
    assert report.codes > 70_000_000
    assert report.agreement == 1.0
    assert all(row.by == "numpy" for row in report.rows)
