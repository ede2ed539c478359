"""The tree of errors and the text each of them prints."""

import inspect
import pickle
import re

import pytest

from qdq import errors
from qdq.errors import GraphError, QdqError, SpecError

TREE = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, QdqError) and found is not QdqError
}


def test_the_text_is_what_then_where_then_the_fix() -> None:
    error = QdqError("no range", at="conv1.input", fix="calibrate")
    assert str(error) == "no range\n  at:  conv1.input\n  fix: calibrate"
    assert (error.what, error.at, error.fix) == ("no range", "conv1.input", "calibrate")


@pytest.mark.parametrize(
    ("at", "fix", "text"),
    [
        ("", "", "no range"),
        ("conv1", "", "no range\n  at:  conv1"),
        ("", "calibrate", "no range\n  fix: calibrate"),
    ],
)
def test_a_line_with_nothing_to_say_is_left_out(at: str, fix: str, text: str) -> None:
    assert str(QdqError("no range", at=at, fix=fix)) == text


def test_every_error_is_a_direct_child_of_the_root() -> None:
    assert TREE
    assert {kind.__bases__ for kind in TREE.values()} == {(QdqError,)}
    assert QdqError.__bases__ == (Exception,)


def test_the_drawn_tree_names_exactly_the_errors_there_are() -> None:
    drawn = re.findall(r"^[├└]── (\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    assert drawn == list(TREE)


def test_each_kind_is_caught_apart_from_its_siblings() -> None:
    with pytest.raises(SpecError, match="broken"):
        raise SpecError("broken")
    assert not issubclass(SpecError, GraphError)


def test_where_and_fix_are_passed_by_name_only() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        QdqError("what", "at")  # type: ignore[misc]


def test_an_error_crosses_a_process_boundary_with_its_text() -> None:
    error = SpecError("no range", at="conv1.input", fix="calibrate")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is SpecError
    assert str(copy) == str(error)
    assert copy.fix == error.fix
