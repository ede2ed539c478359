"""Strangers' files: broken or hostile ones give a clear error, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from qdq.errors import GraphError
from qdq.graph.linting import reading
from qdq.graph.linting.judging import lint
from qdq.graph.linting.reading import read_model
from tests.checking.tiny_graphs import Net

OPS = (
    "Conv", "Gemm", "MatMul", "Relu", "Clip", "Add", "Mul", "Div", "Concat", "Softmax", "Erf",
    "MaxPool", "Transpose", "Sigmoid", "Resize", "Split", "Gather", "LayerNormalization",
    "BatchNormalization", "Pad", "ReduceMean", "QuantizeLinear", "DequantizeLinear", "Identity",
)  # fmt: skip


def good() -> ModelProto:
    net = Net(signed=False)
    y = net.op("Relu", net.op("Conv", net.pair("x"), net.weight((2, 2, 1, 1)), net.bias(2)))
    y = net.op("Add", net.pair(y), net.pair(net.another_input()))
    y = net.op("MaxPool", net.pair(y), kernel_shape=[2, 2])
    return net.model(net.op("Softmax", y))


def cyclic(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def made_twice(model: ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def of_unknown_operators(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Quantise"


def of_a_huge_initializer(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40]


def of_a_negative_length(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-3]


def of_attributes_of_a_wrong_type(model: ModelProto) -> None:
    model.graph.node[-1].attribute.append(helper.make_attribute("axis", "one"))


def without_a_graph(model: ModelProto) -> None:
    model.ClearField("graph")


BREAKS = (
    cyclic, made_twice, of_unknown_operators, of_a_huge_initializer, of_a_negative_length,
    of_attributes_of_a_wrong_type, without_a_graph,
)  # fmt: skip


def refused(path: Path) -> str:
    """The error that a file gives, and that it leaves no other."""
    before = {each.name for each in path.parent.iterdir()}
    with pytest.raises(GraphError) as caught:
        lint(path, "onnxruntime", fix=path.parent / "mended.onnx")
    assert {each.name for each in path.parent.iterdir()} == before
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    text = refused(tmp_path / "none.onnx")
    assert text == (
        f"there is no such ONNX file\n  at:  {tmp_path / 'none.onnx'}\n  fix: check the path"
    )


@pytest.mark.parametrize("content", [b"hello", b"\x08\x08\x12\xff\xff\xff\x7f", b""])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert refused(tmp_path / "m.onnx").startswith("this is no valid ONNX model: ")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = good().SerializeToString()
    for end in range(1, len(whole), 37):
        (tmp_path / "m.onnx").write_bytes(whole[:end])
        assert refused(tmp_path / "m.onnx").startswith("this is no valid ONNX model: ")


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda each: each.__name__)
def test_a_broken_graph_is_refused(tmp_path: Path, break_it: Callable[[ModelProto], None]) -> None:
    model = good()
    break_it(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    text = refused(tmp_path / "m.onnx")
    assert text.startswith("this is no valid ONNX model: ")
    assert text.endswith("fix: export it again, or run onnx.checker on it for the details")


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_external_data_outside_the_folder_is_refused_unread(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "m.onnx").write_bytes(outside(place).SerializeToString())
    assert refused(folder / "m.onnx") == (
        f"the data of 'c0' lies outside the folder of the file: {place!r}\n"
        f"  at:  {folder / 'm.onnx'}\n  fix: save the model anew: its data belongs beside it"
    )


def test_missing_external_data_is_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(outside("weights.bin").SerializeToString())
    assert refused(tmp_path / "m.onnx") == (
        f"the data of 'c0' is missing: 'weights.bin'\n  at:  {tmp_path / 'm.onnx'}\n"
        f"  fix: put the file into {tmp_path}"
    )


def test_external_data_beside_the_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    model = outside("weights.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_model(tmp_path / "m.onnx") == model


def test_too_many_nodes_and_bytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(good(), tmp_path / "m.onnx")
    count = len(good().graph.node)
    monkeypatch.setattr(reading, "MOST_NODES", 3)
    assert refused(tmp_path / "m.onnx").startswith(
        f"the graph has {count} nodes; more than 3 are not read\n"
    )
    monkeypatch.setattr(reading, "MOST_BYTES", 10)
    assert ", and ONNX keeps less than 10 in one file\n" in refused(tmp_path / "m.onnx")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    model = good()
    model.graph.node[0].name = "a-name"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(b"a-name", b"\xffname_"))
    assert refused(tmp_path / "m.onnx").startswith("a name in the graph is no UTF-8 text: ")


def test_outputs_of_no_noted_rank_are_no_reason_to_refuse(tmp_path: Path) -> None:
    model = good()
    assert not model.graph.output[0].type.tensor_type.HasField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    assert read_model(tmp_path / "m.onnx") == model  # and it is given back unchanged


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A good model with a few bytes, or a few fields, replaced."""
    model = good()
    if draw(st.booleans()):
        content = bytearray(model.SerializeToString())
        for _ in range(draw(st.integers(1, 5))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content)
    names = ["", *(name for node in model.graph.node for name in (*node.input, *node.output))]
    for _ in range(draw(st.integers(1, 4))):
        node = draw(st.sampled_from(list(model.graph.node)))
        held = draw(st.sampled_from(list(model.graph.initializer)))
        match draw(st.integers(0, 6)):
            case 0:
                node.op_type = draw(st.sampled_from(OPS))
            case 1 if node.input:
                index = draw(st.integers(0, len(node.input) - 1))
                node.input[index] = draw(st.sampled_from(names))
            case 2:
                held.data_type = draw(st.integers(0, 30))
            case 3:
                held.dims[:] = draw(st.lists(st.sampled_from([0, 1, 2, 1 << 40]), max_size=4))
            case 4:
                axis = draw(st.sampled_from([-9, -1, 0, 1, 1 << 40, "x", 0.5]))
                node.attribute.append(helper.make_attribute("axis", axis))
            case 5:
                held.raw_data = bytes(draw(st.binary(max_size=16)))
            case 6:
                model.opset_import[0].version = draw(st.integers(1, 30))
    return model.SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=mutants(), target=st.sampled_from(["tensorrt", "onnxruntime"]))
def test_a_mutant_is_judged_or_refused_and_what_is_written_is_valid(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, target: str
) -> None:
    folder = tmp_path_factory.mktemp("mutant")
    path, mended = folder / "m.onnx", folder / "mended.onnx"
    path.write_bytes(content)
    text, rows = "", None
    try:
        rows = lint(path, target, fix=mended).rows
    except GraphError as error:
        text = str(error)
    if rows is None:
        assert str(path) in text
        assert [each.name for each in folder.iterdir()] == ["m.onnx"]
    else:
        assert all(row.node for row in rows)
        assert lint(mended, target).rows == rows


def outside(place: str) -> ModelProto:
    model = good()
    held = model.graph.initializer[0]
    assert np.prod(held.dims) == 1
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    held.external_data.add(key="location", value=place)
    return model
