"""Data in the forms that people have it becomes batches by name, or a message that says why not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from qdq.errors import InputError
from qdq.graph.quantizing.arrays import ArrayFiles
from qdq.graph.quantizing.feeding import feeds

X = gs.Variable("x", np.float32, ["n", 3])
FIXED = gs.Variable("x", np.float32, [2, 3])
IDS = gs.Variable("ids", np.int64, ["n", "length"])


def rows(count: int) -> np.ndarray:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


def lengths(inputs: list[gs.Variable], data: Any, **more: Any) -> list[dict[str, int]]:
    return [
        {name: len(each) for name, each in feed.items()} for feed in feeds(inputs, data, **more)
    ]


def test_one_array_is_rows_in_batches() -> None:
    assert lengths([X], rows(70)) == [{"x": 32}, {"x": 32}, {"x": 6}]
    assert lengths([X], rows(70), batches=2) == [{"x": 32}, {"x": 32}]


def test_arrays_and_dictionaries_are_batches_as_they_are() -> None:
    assert lengths([X], [rows(70), {"x": rows(2)}]) == [{"x": 70}, {"x": 2}]
    assert lengths([X], {"x": rows(70)}) == [{"x": 70}]
    assert lengths([X], iter([{"anything": rows(5)}])) == [{"x": 5}]


def test_what_no_input_is_called_like_is_left_aside() -> None:
    batch = {"x": rows(4), "ids": np.ones((4, 7), np.int64), "labels": np.zeros(4)}
    assert lengths([X, IDS], [batch]) == [{"x": 4, "ids": 4}]


def test_floats_and_integers_are_cast_to_the_width_of_the_file() -> None:
    batch = {"x": rows(4).astype(np.float64), "ids": np.ones((4, 7), np.int32)}
    (feed,) = feeds([X, IDS], [batch])
    assert (feed["x"].dtype, feed["ids"].dtype) == (np.float32, np.int64)


def test_rows_are_cut_to_the_batch_that_a_file_is_fixed_to() -> None:
    assert lengths([FIXED], [rows(6)]) == [{"x": 2}] * 3
    cut = [feed["x"] for feed in feeds([FIXED], [rows(6)])]
    np.testing.assert_array_equal(np.concatenate(cut), rows(6))


@pytest.mark.parametrize(
    ("inputs", "data", "said"),
    [
        ([X], rows(0), "the data holds no batch\n"),
        ([X, IDS], [rows(2)], "the file takes 2 inputs, x, ids, and got one ndarray\n"),
        ([X, IDS], [{"x": rows(2)}], "the file takes x, ids, and got x\n"),
        ([X], [{}], "the file takes x, and got nothing\n"),
        ([X], [rows(2).astype(bool).astype(object)], "the file takes float32 and got object\n"),
        ([IDS], [rows(2)], "the file takes int64 and got float32\n"),
        ([FIXED], [rows(3)], "the file takes (2, 3) and got (3, 3)\n"),
        ([X], [np.float32(3)], "the file takes (n, 3) and got ()\n"),
        ([X], [(rows(2), np.zeros(2))], "this tuple is no array: setting an array element"),
    ],
)
def test_data_that_does_not_fit_is_named(inputs: list[gs.Variable], data: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        list(feeds(inputs, data))
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("batches", [0, -1])
def test_less_than_one_batch_cannot_be_asked_for(batches: int) -> None:
    with pytest.raises(InputError) as refused:
        list(feeds([X], rows(2), batches))
    assert str(refused.value) == (
        f"batches={batches}\n  fix: pass batches=1 or more, or None for all"
    )


def test_inputs_with_unlike_numbers_of_rows_are_named() -> None:
    other = gs.Variable("y", np.float32, [1, 3])
    with pytest.raises(InputError, match=r"unlike numbers of rows: x \(4, 3\), y \(4, 3\)"):
        list(feeds([FIXED, other], [{"x": rows(4), "y": rows(4)}]))


def test_a_folder_of_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", rows(3) + 100)
    np.savez(tmp_path / "a.npz", x=rows(5), labels=np.zeros(5))
    (tmp_path / "notes.txt").write_text("no data")
    found = [feed["x"] for feed in feeds([X], ArrayFiles(tmp_path, 2))]
    assert [len(each) for each in found] == [2, 2, 1, 2, 1]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate([rows(5), rows(3) + 100]))


def test_arrays_of_unlike_lengths_are_one_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=rows(5), threshold=np.float32(3))
    assert lengths([X], ArrayFiles(tmp_path / "a.npz", 2)) == [{"x": 5}]


@pytest.mark.parametrize("name", ["none.npy", "rows.csv", "."])
def test_a_place_without_arrays_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.csv").write_text("1,2,3")
    with pytest.raises(InputError, match=r"there is no \.npy and no \.npz here"):
        list(ArrayFiles(tmp_path / name))


def test_pickles_and_broken_files_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"PK\x03\x04broken"), ("b.npy", b"\x93NUMPY"), ("c.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"this is no \.np[yz] of plain arrays: "):
            list(ArrayFiles(tmp_path / name))
    np.save(tmp_path / "d.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"this is no \.npy of plain arrays: "):
        list(ArrayFiles(tmp_path / "d.npy"))
    np.save(tmp_path / "e.npy", np.float32(1))
    with pytest.raises(InputError, match="it holds one number and no rows"):
        list(ArrayFiles(tmp_path / "e.npy"))


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdq.graph.quantizing.arrays._LARGEST", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1000, np.float32))
    with pytest.raises(InputError, match="unpacks to 4,128 bytes; more than 1,000 are not read"):
        list(ArrayFiles(tmp_path / "a.npz"))
