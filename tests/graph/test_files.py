"""Reading ONNX files with suspicion, and writing them whole or not at all."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qdq.errors import GraphError, InputError
from qdq.graph.files import load, metadata, save


def model(opset: int = 13, *, op: str = "Relu", domain: str = "") -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid(domain, opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_what_was_saved_loads_as_it_was(tmp_path: Path) -> None:
    save(model(), tmp_path / "m.onnx", opset=13)
    assert load(tmp_path / "m.onnx") == model()
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as caught:
        load(tmp_path / "none.onnx")
    assert str(caught.value) == (
        f"there is no such ONNX file\n  at:  {tmp_path / 'none.onnx'}\n  fix: check the path"
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else", b"\x08\x07"])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match="this is no valid ONNX model: ") as caught:
        load(path)
    assert caught.value.at == str(path)
    assert caught.value.fix == "export it again, or run onnx.checker on it for the details"


def test_a_graph_the_checker_objects_to_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model(op="NoSuchOp").SerializeToString())
    with pytest.raises(GraphError, match=r"no valid ONNX model: No Op registered for NoSuchOp"):
        load(tmp_path / "m.onnx")


def test_another_opset_than_asked_for_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(GraphError) as caught:
        save(model(18), tmp_path / "m.onnx", opset=13)
    assert str(caught.value) == (
        "the graph declares {'ai.onnx': 18}, not opset 13 alone\n"
        f"  at:  {tmp_path / 'm.onnx'}\n"
        "  fix: this is a bug in the export: please report it with the model"
    )
    assert not list(tmp_path.iterdir())


def test_a_second_domain_is_not_written(tmp_path: Path) -> None:
    foreign = model()
    foreign.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(GraphError, match=r"declares .*'com.microsoft': 1.*, not opset 13 alone"):
        save(foreign, tmp_path / "m.onnx", opset=13)
    assert not list(tmp_path.iterdir())


def test_the_long_name_of_the_default_domain_is_that_domain(tmp_path: Path) -> None:
    save(model(domain="ai.onnx"), tmp_path / "m.onnx", opset=13)
    assert (tmp_path / "m.onnx").exists()


def test_a_graph_with_wrong_shapes_is_not_written(tmp_path: Path) -> None:
    wrong = model()
    wrong.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(GraphError, match="the graph that was built is not valid: ") as caught:
        save(wrong, tmp_path / "m.onnx", opset=13)
    assert caught.value.at == str(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here: Not a directory") as caught:
        save(model(), tmp_path / "file" / "m.onnx", opset=13)
    assert caught.value.at == str(tmp_path / "file" / "m.onnx")


def test_metadata_is_a_dictionary_of_what_the_file_carries() -> None:
    described = model()
    assert metadata(described) == {}
    helper.set_model_props(described, {"qdq.target": "tensorrt", "other": "1"})
    assert metadata(described) == {"qdq.target": "tensorrt", "other": "1"}
