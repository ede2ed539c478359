"""The report of a command never takes the place of what the command reads or writes."""

from pathlib import Path

import pytest

from qdq.commands.outputs import report_file
from qdq.errors import InputError


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    with report_file(tmp_path / "r.json", [tmp_path / "m.onnx", None]) as file:
        assert file is not None
        file.write_text("{}")
        assert not (tmp_path / "r.json").exists()
    assert (tmp_path / "r.json").read_text() == "{}"


def test_no_report_is_asked_for() -> None:
    with report_file(None, [Path("m.onnx")]) as file:
        assert file is None


@pytest.mark.parametrize("name", ["m.onnx", "folder/../m.onnx"])
def test_another_file_of_the_command_is_kept(tmp_path: Path, name: str) -> None:
    model = tmp_path / "m.onnx"
    model.write_text("kept")
    with pytest.raises(InputError) as caught, report_file(tmp_path / name, [model]):
        pytest.fail("it went on")
    assert str(caught.value) == (
        "the report would take the place of another file of this command\n"
        f"  at:  {tmp_path / name}\n"
        "  fix: name another file"
    )
    assert model.read_text() == "kept"


def test_what_fails_leaves_no_report(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), report_file(tmp_path / "r.json", []):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
