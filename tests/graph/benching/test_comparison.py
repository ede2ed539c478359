"""Files timed side by side: which settings, which inputs, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdq.errors import GraphError, InputError
from qdq.graph import bench
from qdq.graph.benching.opening import draw_inputs, open_session
from qdq.records.benching import BenchReport


def relu(path: Path, *shape: int | str, kind: int = TensorProto.FLOAT, op: str = "Relu") -> Path:
    give = helper.make_tensor_value_info
    node = helper.make_node(op, ["x"], ["y"])
    graph = helper.make_graph([node], "g", [give("x", kind, shape)], [give("y", kind, shape)])
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_every_setting_has_a_row_per_file_divided_by_the_first(tmp_path: Path) -> None:
    files = {name: relu(tmp_path / f"{name}.onnx", "n", 4) for name in ("one", "two")}
    report = bench(files, threads=(1, 2), batches=(1, 3), rounds=2, progress=False)
    settings = [(row.threads, row.batch, row.clock, row.name) for row in report.rows]
    assert settings == [
        (threads, batch, "cpu" if threads == 1 else "wall", name)
        for threads in (1, 2)
        for batch in (1, 3)
        for name in ("one", "two")
    ]
    for row in report.rows:
        assert row.provider == "CPUExecutionProvider"
        assert 0 < row.low_ms <= row.median_ms <= row.high_ms
        assert 0 < row.ratio_low <= row.ratio <= row.ratio_high
        assert row.name == "two" or (row.ratio_low, row.ratio, row.ratio_high) == (1, 1, 1)
    assert BenchReport.from_dict(report.to_dict()) == report
    assert "2 rounds" in str(report)


def test_files_are_called_by_their_names_or_paths_where_names_are_equal(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one, two = relu(tmp_path / "m.onnx", 1, 4), relu(tmp_path / "a" / "m.onnx", 1, 4)
    other = relu(tmp_path / "n.onnx", 1, 4)
    found = bench([one, other], rounds=1, progress=False).rows
    assert [row.name for row in found] == ["m.onnx", "n.onnx"]
    found = bench([one, two], rounds=1, progress=False).rows
    assert [row.name for row in found] == [str(one), str(two)]
    found = bench([one, one, other], rounds=1, progress=False).rows
    assert [row.name for row in found] == ["m.onnx", "m.onnx #2", "n.onnx"]


def test_a_batch_is_the_files_own_or_one(tmp_path: Path) -> None:
    fixed, free = relu(tmp_path / "a.onnx", 5, 4), relu(tmp_path / "b.onnx", "n", 4)
    assert [row.batch for row in bench([fixed, free], rounds=1, progress=False).rows] == [5, 1]


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "INT64", "UINT8", "BOOL"])
def test_inputs_are_drawn_for_every_type_of_numbers(tmp_path: Path, kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    path = relu(tmp_path / "m.onnx", "n", "height", 2, kind=number, op="Identity")
    session = open_session(path)
    drawn = draw_inputs(session, batch=3, sizes={"height": 5}, at="m")["x"]
    assert drawn.shape == (3, 5, 2)
    assert drawn.dtype == helper.tensor_dtype_to_np_dtype(number)
    assert np.any(drawn != 0) == (drawn.dtype.kind == "f")
    np.testing.assert_array_equal(session.run(None, {"x": drawn})[0], drawn)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"threads": (0,)}, "threads=0 is less than one\n  fix: pass 1 or more"),
        ({"batches": (2, -1)}, "batch=-1 is less than one\n  fix: pass 1 or more"),
        ({"rounds": 0}, "rounds=0 is less than one\n  fix: pass 1 or more"),
        ({"rounds": 10**12}, f"rounds={10**12} is more than 100,000\n  fix: pass 100,000 or less"),
        ({"threads": (1, 10**5)}, "threads=100000 is more than 1,024\n  fix: pass 1,024 or less"),
        (
            {"sizes": {"height": 8}},
            "no input has a dimension 'height' that varies\n  fix: leave it out: all are fixed",
        ),
        (
            {"batches": (4,)},
            "the file takes batches of 5, not of 4\n  at:  {path}\n"
            "  fix: export it with dynamic_batch=True, or leave the batch to the file",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, asked: dict[str, object], text: str
) -> None:
    path = relu(tmp_path / "m.onnx", 5, 4)
    with pytest.raises(InputError) as caught:
        bench([path], progress=False, **({"rounds": 1} | asked))  # type: ignore[arg-type]
    assert str(caught.value) == text.format(path=path)


def test_a_size_that_no_file_has_names_the_known_and_one_that_any_has_is_taken(
    tmp_path: Path,
) -> None:
    files = [relu(tmp_path / "a.onnx", "n", "height"), relu(tmp_path / "b.onnx", "n", "width")]
    with pytest.raises(InputError) as caught:
        bench(files, sizes={"hight": 8}, rounds=1, progress=False)
    assert str(caught.value) == (
        "no input has a dimension 'hight' that varies\n"
        "  fix: did you mean 'height'? known: height, n, width"
    )
    assert len(bench(files, sizes={"width": 8}, rounds=1, progress=False).rows) == 2


def test_an_unknown_provider_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no provider 'cpux'\n  fix: did you mean 'cpu'\?"):
        bench([relu(tmp_path / "m.onnx", 1)], providers=("cpux",), progress=False)


def test_no_file_a_missing_file_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no files to time"):
        bench([], progress=False)
    with pytest.raises(GraphError, match="there is no such ONNX file"):
        bench([tmp_path / "no.onnx"], progress=False)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x99 nonsense")
    with pytest.raises(GraphError, match="onnxruntime refuses this file: "):
        bench([tmp_path / "m.onnx"], progress=False)


def test_inputs_that_nobody_means_or_knows_are_refused(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.onnx", "n", 4)
    with pytest.raises(InputError, match=r"of shape \(1000000000, 4\) has too many values"):
        bench([path], batches=(10**9,), progress=False)
    path = relu(tmp_path / "s.onnx", 1, kind=TensorProto.STRING, op="Identity")
    with pytest.raises(InputError, match=r"this input is a tensor\(string\): no random values"):
        bench([path], progress=False)


def test_a_file_that_fails_on_random_inputs_says_what_to_give(tmp_path: Path) -> None:
    give = helper.make_tensor_value_info
    inputs = [give("x", TensorProto.FLOAT, ["n", 4]), give("y", TensorProto.FLOAT, ["m", 4])]
    nodes = [helper.make_node("Concat", ["x", "y"], ["z"], axis=1)]
    graph = helper.make_graph(nodes, "g", inputs, [give("z", TensorProto.FLOAT, None)])
    opsets = [helper.make_opsetid("", 13)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    with pytest.raises(InputError, match=r"cannot run it on random inputs: (.|\n)*sizes="):
        bench([path], sizes={"m": 3}, progress=False)
