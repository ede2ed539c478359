"""`qdq lint`: findings, exit codes, and files that are written whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import onnx
import pytest

from qdq.cli import main
from qdq.graph.linting.judging import lint
from qdq.graph.linting.sarif import to_sarif
from tests.checking.tiny_graphs import Net

Call: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run it in a folder with a good file, one with a warning, and one with errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    net = Net()
    onnx.save(net.model(net.conv(net.pair("x"))), "good.onnx")
    net = Net()
    onnx.save(net.model(net.float_conv(net.pair("x"))), "warned.onnx")
    net = Net(signed=False)
    onnx.save(net.model(net.conv(net.pair("x", zero=128))), "wrong.onnx")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["lint", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def files() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()} - {"good.onnx", "warned.onnx", "wrong.onnx"}


def heads(out: str) -> list[list[str]]:
    """Rule, severity and node of every row."""
    return [line.split()[:5] for line in out.splitlines()]


@pytest.mark.parametrize(
    ("file", "options", "code"),
    [
        ("good.onnx", (), 0),
        ("warned.onnx", (), 0),
        ("warned.onnx", ("--strict",), 1),
        ("good.onnx", ("--strict",), 0),
        ("wrong.onnx", (), 1),
        ("none.onnx", (), 2),
    ],
)
def test_the_exit_code_tells_clean_wrong_and_unusable_files_apart(
    call: Call, file: str, options: tuple[str, ...], code: int
) -> None:
    assert call(file, "--target", "tensorrt", *options)[0] == code


def test_every_finding_is_shown_with_reason_and_remedy(call: Call) -> None:
    code, out, err = call("warned.onnx", "--target", "tensorrt")
    assert (code, err) == (0, "")
    assert ["T08", "warning", "Conv", "->", "t2"] in heads(out)
    assert "c2 is float, the other factor int8" in out
    assert out.endswith("warned.onnx for tensorrt: 0 errors, 1 warning, 0 notes\n")


def test_json_and_sarif_hold_what_python_gives(call: Call) -> None:
    places = ("--json", "found.json", "--sarif", "found.sarif")
    assert call("wrong.onnx", "--target", "tensorrt", *places)[0] == 1
    report = lint("wrong.onnx", "tensorrt")
    assert json.loads(Path("found.json").read_text()) == report.to_dict()
    assert json.loads(Path("found.sarif").read_text()) == to_sarif(report)
    assert files() == {"found.json", "found.sarif"}


def test_a_mended_file_is_written_and_lints_clean(call: Call) -> None:
    code, out, _ = call("wrong.onnx", "--target", "tensorrt", "--fix", "mended.onnx")
    assert code == 0
    assert "mended T01 at QuantizeLinear -> t0: zero point 128\n" in out
    assert "0 errors, 0 warnings, 0 notes; 2 mended in mended.onnx\n" in out
    assert call("mended.onnx", "--target", "tensorrt", "--strict")[0] == 0


def test_an_unusable_file_leaves_nothing_behind(call: Call) -> None:
    Path("cut.onnx").write_bytes(Path("good.onnx").read_bytes()[:40])
    options = ("--fix", "m.onnx", "--json", "found.json", "--sarif", "found.sarif")
    code, out, err = call("cut.onnx", "--target", "tensorrt", *options)
    assert (code, out) == (2, "")
    assert err.startswith("GraphError: this is no valid ONNX model: ")
    assert files() == {"cut.onnx"}


def test_a_place_that_cannot_be_written_is_told_before_anything_is(call: Call) -> None:
    code, _, err = call(
        "wrong.onnx", "--target", "tensorrt", "--fix", "m.onnx", "--json", "no/found.json"
    )
    assert code == 2
    assert err.startswith("InputError: cannot write here: ")
    assert files() == set()


def test_a_target_is_needed_where_the_file_names_none(call: Call) -> None:
    code, _, err = call("good.onnx")
    assert (code, err) == (
        2,
        "GraphError: the file does not say which runtime it is made for\n"
        "  at:  good.onnx\n  fix: name the target: onnxruntime, tensorrt\n",
    )


def test_options_of_a_target_need_it_named(call: Call) -> None:
    code, _, err = call("good.onnx", "--skip-small")
    assert (code, err) == (
        2,
        "InputError: --skip-small and --reduce-range say more of a target, and none is named\n"
        "  fix: pass --target too\n",
    )


def test_small_layers_and_wide_weights_are_found_on_request(call: Call) -> None:
    _, out, _ = call("good.onnx", "--target", "tensorrt", "--skip-small")
    assert ["T19", "warning", "Conv", "->", "t3"] in heads(out)
    net = Net(signed=False)
    weight = net.weight((2, 2, 1, 1), code=127)
    onnx.save(net.model(net.pair(net.op("Conv", net.pair("x"), weight))), "good.onnx")
    assert call("good.onnx", "--target", "onnxruntime")[0] == 0
    code, out, _ = call("good.onnx", "--target", "onnxruntime", "--reduce-range")
    assert code == 1
    assert ["O24", "error", "Conv", "->", "t3"] in heads(out)
