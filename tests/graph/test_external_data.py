"""Tensors beside the file: written as a pair or not at all, and read with suspicion."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qdq.errors import GraphError
from qdq.graph import external_data, files
from qdq.graph.external_data import put_back, take_out, too_large
from qdq.graph.files import load, save

X = np.arange(128, dtype=np.float32).reshape(2, 64) / 64


def model(seed: int = 0) -> ModelProto:
    """x @ w + b, in which w is large enough to lie outside."""
    weight = np.random.default_rng(seed).standard_normal((64, 32)).astype(np.float32)
    arrays = {"w": weight, "b": weight[0]}
    ends = {"x": [2, 64], "y": [2, 32]}
    values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, size)
              for key, size in ends.items()]  # fmt: skip
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]),
             helper.make_node("Add", ["h", "b"], ["y"])]  # fmt: skip
    held = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def taken(seed: int = 0) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    """(model without the values of w, those)."""
    graph = gs.import_onnx(model(seed))
    data = take_out(graph)
    made: ModelProto = gs.export_onnx(graph)
    made.ir_version = 8
    return made, data


def weights(held: ModelProto) -> dict[str, tuple[int, list[int], bytes]]:
    """Type, shape and bytes of the initializers; none of them says that it lies outside."""
    assert not any(each.data_location or each.external_data for each in held.graph.initializer)
    initializers = held.graph.initializer
    return {each.name: (each.data_type, list(each.dims), each.raw_data) for each in initializers}


def saved(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """(model, data file) as `save` writes them."""
    made, data = taken(seed)
    beside = save(made, folder / "m.onnx", opset=13, data=data)
    assert beside is not None
    return folder / "m.onnx", beside


def changed(path: Path, change: Callable[[TensorProto], None]) -> None:
    """The file with something else said of the tensor that lies outside."""
    held = onnx.load(path, load_external_data=False)
    change(next(each for each in held.graph.initializer if each.name == "w"))
    path.write_bytes(held.SerializeToString())


def say(key: str, value: str) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        kept = {each.key: each.value for each in tensor.external_data}
        del tensor.external_data[:]
        for name, entry in {**kept, key: value}.items():
            tensor.external_data.add(key=name, value=entry)

    return change


def test_what_was_saved_in_two_files_loads_as_it_was_and_runs(tmp_path: Path) -> None:
    path, beside = saved(tmp_path)
    assert set(tmp_path.iterdir()) == {path, beside}
    assert weights(load(path)) == weights(model())
    (got,) = ort.InferenceSession(str(path)).run(None, {"x": X})
    arrays = {each.name: numpy_helper.to_array(each) for each in model().graph.initializer}
    np.testing.assert_allclose(got, X @ arrays["w"] + arrays["b"], rtol=1e-5, atol=1e-5)


def test_only_large_tensors_lie_outside_in_a_file_named_after_them(tmp_path: Path) -> None:
    made, data = taken()
    assert list(data) == ["w"]
    beside = save(made, tmp_path / "m.onnx", opset=13, data=data)
    assert (
        beside == tmp_path / f"m.onnx.{hashlib.sha256(data['w'].tobytes()).hexdigest()[:16]}.data"
    )
    assert beside.read_bytes() == data["w"].tobytes()


def test_a_new_model_takes_the_place_of_both_files(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("m.onnx.data", "n.onnx.0123456789abcdef.data")]
    for each in others:
        each.write_bytes(b"somebody else's")
    saved(tmp_path)
    path, beside = saved(tmp_path, seed=1)
    assert set(tmp_path.iterdir()) == {path, beside, *others}
    assert weights(load(path)) == weights(model(1))
    save(model(), path, opset=13)
    assert set(tmp_path.iterdir()) == {path, *others}


@pytest.mark.parametrize("dying", ["write_data", "_write_checked"])
def test_a_write_that_dies_leaves_the_older_pair_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: str
) -> None:
    path, beside = saved(tmp_path)
    real = getattr(files, dying)

    def die(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, dying, die)
    made, data = taken(1)
    with pytest.raises(KeyboardInterrupt):
        save(made, path, opset=13, data=data)
    assert set(tmp_path.iterdir()) == {path, beside}
    assert weights(load(path)) == weights(model())


def test_what_was_taken_out_is_put_back_as_it_was() -> None:
    made, data = taken()
    assert [len(each.raw_data) for each in made.graph.initializer] == [0, 32 * 4]
    put_back(made, data)
    assert weights(made) == weights(model())


def test_data_that_protobuf_cannot_hold_is_told_from_what_it_can() -> None:
    half = np.broadcast_to(np.float32(0), (2**28,))  # a GiB that takes no memory
    assert not too_large({"a": half})
    assert too_large({"a": half, "b": half})


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "sub/../../secret"])
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64 * 32 * 4))
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    path, _ = saved(folder)
    changed(path, say("location", location))
    with pytest.raises(GraphError) as caught:
        load(path)
    assert str(caught.value) == (
        f"the data of 'w' lies outside the folder of the file: '{location}'\n"
        f"  at:  {path}\n"
        "  fix: save the model anew: its data belongs beside it"
    )


def test_missing_data_is_named(tmp_path: Path) -> None:
    path, beside = saved(tmp_path)
    beside.unlink()
    with pytest.raises(GraphError, match=f"the data of 'w' is missing: '{beside.name}'"):
        load(path)


def test_data_that_was_cut_off_is_told(tmp_path: Path) -> None:
    path, beside = saved(tmp_path)
    beside.write_bytes(beside.read_bytes()[:-1])
    with pytest.raises(GraphError) as caught:
        load(path)
    assert str(caught.value) == (
        f"the data of 'w' ends at byte 8,192, and '{beside.name}' has 8,191\n"
        f"  at:  {path}\n"
        "  fix: copy the data file anew: it was cut off"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "-1"), ("offset", "x"), ("offset", "9" * 40), ("length", "8191"), ("length", "")],
)
def test_places_that_do_not_fit_the_shape_are_refused(tmp_path: Path, key: str, value: str) -> None:
    path, _ = saved(tmp_path)
    changed(path, say(key, value))
    said = {"offset": "0", "length": "8192", key: value}
    with pytest.raises(GraphError) as caught:
        load(path)
    assert caught.value.what == (
        f"the data of 'w' begins at byte {said['offset']!r} and has {said['length']!r} bytes, and "
        "its shape asks for 8192"
    )


@pytest.mark.parametrize("size", [2**40, -1])
def test_a_shape_beyond_its_data_takes_no_memory(tmp_path: Path, size: int) -> None:
    path, _ = saved(tmp_path)

    def grow(tensor: TensorProto) -> None:
        tensor.dims[0] = size

    changed(path, grow)
    with pytest.raises(GraphError):
        load(path)


def test_many_tensors_that_claim_the_same_bytes_are_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    held = onnx.load(path, load_external_data=False)
    for number in range(3):
        twin = held.graph.initializer.add()
        twin.CopyFrom(held.graph.initializer[0])
        twin.name = f"w_{number}"
    path.write_bytes(held.SerializeToString())
    with pytest.raises(GraphError) as caught:
        load(path)
    assert caught.value.what == ("the tensors claim 32,768 bytes of data files that hold 8,192")


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [(TensorProto.INT4, 5, 3), (TensorProto.BFLOAT16, 3, 6), (TensorProto.DOUBLE, 2, 16)],
)
def test_bytes_are_counted_by_type(tmp_path: Path, kind: int, count: int, size: int) -> None:
    made = model()
    tensor = TensorProto(name="extra", data_type=kind, dims=[count])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="d.data")
    made.graph.initializer.append(tensor)
    (tmp_path / "d.data").write_bytes(bytes(range(size)))
    external_data.read_data(made, tmp_path / "m.onnx")
    assert made.graph.initializer[-1].raw_data == bytes(range(size))
