"""Explaining files of every kind: odd names, branches, functions, external data; times; errors."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from qdq.errors import GraphError, InputError, RegistryError
from qdq.graph.explaining.explanation import explain
from qdq.records.explanation import ExplanationReport
from tests.graph.explained_files import exported, fates, file_of, model_of, relu_net
from tests.graph.graph_sketch import Sketch


def test_nodes_without_names_are_called_by_what_they_make(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Tanh", ["e"], ["y"])]
    report = explain(file_of(model_of(nodes), tmp_path))
    assert [each.name for each in report.rows] == ["Exp -> e", "Tanh -> y"]
    assert [each.nodes for each in report.kernels] == [("Exp -> e",), ("Tanh -> y",)]


def test_nodes_with_one_name_are_kept_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], "n"),
        helper.make_node("Tanh", ["e"], ["y"], "n"),
    ]
    report = explain(file_of(model_of(nodes), tmp_path))
    assert [(each.op, each.kernel) for each in report.rows] == [("Exp", "Exp"), ("Tanh", "Tanh")]


def test_branches_are_explained_too(tmp_path: Path) -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("p", "q")]
    branches = {
        "then_branch": helper.make_graph(
            [helper.make_node("Exp", ["x"], ["p"])], "t", [], info[:1]
        ),
        "else_branch": helper.make_graph(
            [helper.make_node("Tanh", ["x"], ["q"])], "e", [], info[1:]
        ),
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    report = explain(file_of(model_of(nodes), tmp_path))
    assert [each.op for each in report.rows] == ["ReduceSum", "Cast", "If", "Tanh", "Exp"]
    assert {each.op for each in report.kernels} == {"ReduceSum", "Cast", "If", "Exp", "Tanh"}
    assert fates(report)["Exp"] == fates(report)["Tanh"] == "float"


def test_functions_of_a_model_are_explained_by_what_is_in_them(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Exp", ["a"], ["b"]), helper.make_node("Tanh", ["b"], ["c"])]
    own = helper.make_function("own", "Bend", ["a"], ["c"], body, imports[:1])
    model = model_of([helper.make_node("Bend", ["x"], ["y"], domain="own")])
    model.opset_import.append(imports[1])
    model.functions.append(own)
    report = explain(file_of(model, tmp_path))
    assert [each.op for each in report.rows] == ["Exp", "Tanh"]


def test_weights_outside_the_file_are_found_beside_it(tmp_path: Path) -> None:
    inside = file_of(relu_net(0, np.uint8), tmp_path)
    (tmp_path / "other").mkdir()
    outside = tmp_path / "other" / "m.onnx"
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 500}
    onnx.save(onnx.load(inside), outside, **options)
    assert (tmp_path / "other" / "m.data").stat().st_size == 8 * 8 * 3 * 3
    assert explain(outside, runs=1).rows == explain(inside).rows


# times


def test_each_kernel_gets_its_time(tmp_path: Path) -> None:
    report = explain(exported("resnet20", "onnxruntime"), runs=3, sizes={"batch": 2})
    times = [each.microseconds for each in report.kernels]
    assert all(each is not None and each >= 0 for each in times)
    assert sum(each for each in times if each is not None) > 0
    assert "us a run" in str(report)
    untimed = explain(exported("resnet20", "onnxruntime"))
    assert {each.microseconds for each in untimed.kernels} == {None}


def test_a_report_says_what_it_counts_and_comes_back_from_json(tmp_path: Path) -> None:
    path = file_of(relu_net(0, np.uint8), tmp_path)
    report = explain(path)
    assert str(report) == (
        f"{path} on onnxruntime, by onnxruntime {ort.__version__}: 8 nodes become 5 kernels; "
        "2 of 2 nodes that compute run in integers, and 100.0% of 9,216 MACs"
    )
    report.to_json(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text("utf-8")
    assert ExplanationReport.from_dict(json.loads(text)) == report


# errors


def test_a_missing_file_and_one_that_is_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="there is no such ONNX file"):
        explain(tmp_path / "none.onnx")
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(GraphError, match="this is no valid ONNX model") as caught:
        explain(tmp_path / "m.onnx")
    assert caught.value.at == str(tmp_path / "m.onnx")


def test_what_onnxruntime_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Strange", ["x"], ["y"], domain="nobody")])
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    path = file_of(model, tmp_path)
    with pytest.raises(GraphError, match=r"onnxruntime refuses this file: .*nobody") as caught:
        explain(path)
    assert caught.value.at == str(path)
    assert explain(path, "tensorrt").rows[0].fate == "float"


def test_shapes_that_contradict_each_other_are_refused_by_who_runs_the_file(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    held = helper.make_tensor("w", TensorProto.FLOAT, [3, 40], np.zeros(120))
    path = file_of(model_of(nodes, held), tmp_path)
    with pytest.raises(GraphError, match=r"onnxruntime refuses this file: .*Incompatible dim"):
        explain(path)
    assert explain(path, "tensorrt").rows[0].macs is None


def test_sizes_that_do_not_run_are_refused(tmp_path: Path) -> None:
    draw = Sketch(1, 2, "height", "width")
    kernel = draw.constant("kernel", np.ones((3, 2, 5, 5), np.float32))
    path = file_of(draw.done(draw.node("Conv", draw.x, kernel), rank=4), tmp_path)
    with pytest.raises(GraphError, match="cannot run it on random inputs: ") as caught:
        explain(path, runs=1)
    assert caught.value.at == str(path)
    assert caught.value.fix == "pass the sizes of dimensions that vary, sizes={'height': 224}"
    assert explain(path).rows[0].fate == "float"
    assert explain(path, runs=1, sizes={"height": 9, "width": 7}).macs == 3 * 5 * 3 * 2 * 25


def test_inputs_that_hold_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Identity", ["x"], ["y"])])
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.elem_type = TensorProto.STRING
    path = file_of(model, tmp_path)
    with pytest.raises(GraphError) as caught:
        explain(path, runs=1)
    assert str(caught.value) == (
        "input 'x' is a tensor(string): no random values are made of that\n"
        f"  at:  {path}\n  fix: pass runs=0"
    )
    assert explain(path).rows[0].fate in ("index", "removed")


@pytest.mark.parametrize(
    ("target", "runs", "what"),
    [("tensorrt", 3, "TensorRT is not run here"), ("onnxruntime", -1, "less than none")],
)
def test_runs_that_cannot_be_are_refused(target: str, runs: int, what: str) -> None:
    with pytest.raises(InputError, match=f"runs={runs}, and {what}"):
        explain(exported("conv_last", "tensorrt"), target, runs=runs)


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(RegistryError, match="no target 'tensorflow'"):
        explain(exported("conv_last", "tensorrt"), "tensorflow")


def test_nothing_is_written_beside_the_file(tmp_path: Path) -> None:
    path = file_of(relu_net(0, np.uint8), tmp_path)
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(path, runs=1)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
