"""What cannot be rewritten is refused in clear words, and nothing is written."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdq.errors import GraphError, InputError, QdqError, RegistryError, SpecError
from qdq.graph.retargeting.rewriting import retarget
from qdq.spec import QuantSpec
from qdq.targets import get
from tests.graph.retargeting.rewritten_files import exported


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph(list(nodes), "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def refused(folder: Path, source: Path, **options: object) -> QdqError:
    before = {each.name for each in folder.iterdir()}
    with pytest.raises(QdqError) as caught:
        retarget(source, folder / "out.onnx", "tensorrt", **options)  # type: ignore[arg-type]
    assert {each.name for each in folder.iterdir()} == before
    return caught.value


def test_a_float_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_of(helper.make_node("Relu", ["x"], ["y"])), path)
    error = refused(tmp_path, path)
    assert isinstance(error, GraphError)
    assert str(error) == (
        "there is no DequantizeLinear in the graph: this is a float model\n"
        f"  at:  {path}\n  fix: quantize it first: qdq quantize"
    )


def test_integer_operators_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = exported("mlp", "tensorrt")
    changed = onnx.load(model)
    changed.graph.node[0].op_type = "QLinearMatMul"
    path.write_bytes(changed.SerializeToString())
    with pytest.raises(GraphError):
        retarget(path, tmp_path / "out.onnx", "tensorrt")
    integer = helper.make_node("ConvInteger", ["a", "b"], ["c"])
    whole = model_of(integer, helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT))
    whole.graph.input[0].name = "a"
    whole.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    whole.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.int8), "b")
    )
    onnx.save(whole, path)
    assert "the graph holds ConvInteger, which is the operator form" in str(refused(tmp_path, path))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[: len(content) // 2], "this is no valid ONNX model"),
        (lambda content: b"", "this is no valid ONNX model"),
        (lambda content: b"no model", "this is no valid ONNX model"),
    ],
)
def test_a_broken_file_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(damage(exported("mlp", "tensorrt").read_bytes()))
    assert said in str(refused(tmp_path, path))


def test_a_file_that_is_not_there_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    assert "there is no such ONNX file" in str(refused(tmp_path, tmp_path / "none.onnx"))
    with pytest.raises(InputError, match="cannot write here"):
        retarget(exported("mlp", "tensorrt"), tmp_path / "no" / "m.onnx", "tensorrt")


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = exported("mlp", "tensorrt")
    wrong = refused(tmp_path, source, data=[{"input": np.zeros((1, 13), np.float32)}])
    assert "12) and got (1, 13)" in str(wrong)
    assert "the data holds no batch" in str(refused(tmp_path, source, data=[]))


def test_options_that_there_are_not_are_refused(tmp_path: Path) -> None:
    source, path = exported("mlp", "tensorrt"), tmp_path / "m.onnx"
    with pytest.raises(RegistryError, match="no target 'tensort'"):
        retarget(source, path, "tensort")
    with pytest.raises(RegistryError, match="no calibration method 'mean'"):
        retarget(source, path, "tensorrt", method="mean")
    with pytest.raises(SpecError, match="retarget writes 8 bits"):
        retarget(source, path, get("tensorrt", activation=QuantSpec(bits=4)))
    with pytest.raises(RegistryError, match="there is no speed pass 'faster'"):
        retarget(source, path, "onnxruntime", skip_passes=["faster"])
    assert not path.exists()


def test_what_graphsurgeon_does_not_know_is_said_in_clear_words(tmp_path: Path) -> None:
    model = onnx.load(exported("mlp", "tensorrt"))
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_type = 90
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert isinstance(refused(tmp_path, path), GraphError)


def test_an_error_of_the_data_is_the_users_own(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, np.ndarray]]:
        yield {"input": np.zeros((1, 12), np.float32)}
        raise KeyError("a file of the user's")

    with pytest.raises(KeyError, match="a file of the user's"):
        retarget(exported("mlp", "tensorrt"), tmp_path / "out.onnx", "tensorrt", data=broken())
    assert list(tmp_path.iterdir()) == []


def test_mutated_files_give_a_clear_error_or_a_valid_file(tmp_path: Path) -> None:
    rng, content = np.random.default_rng(0), exported("identity_skip", "tensorrt").read_bytes()
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    for _ in range(120):
        bytes_of = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            bytes_of[place] = rng.integers(0, 256)
        path.write_bytes(bytes(bytes_of))
        out.unlink(missing_ok=True)
        try:
            retarget(path, out, "onnxruntime")
        except QdqError:
            assert not out.exists()
        else:
            onnx.checker.check_model(onnx.load(out))
    assert {each.name for each in tmp_path.iterdir()} <= {"m.onnx", "out.onnx"}
