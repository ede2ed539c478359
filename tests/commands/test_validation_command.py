"""`qdq validate` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from qdq.commands.validation import validate
from qdq.errors import GraphError, InputError
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.graph.simulation.kernels import KERNELS
from qdq.insertion.checkpoints import save
from qdq.insertion.weights import write_tensors
from qdq.records.validation import ValidationReport
from tests.export.export_nets import built, example, prepared

APP = typer.Typer()
APP.command()(validate)
DATA = ("--data", "test_validation_command:batches")
MODEL = ("--model", "test_validation_command:mlp")


def mlp() -> nn.Module:
    return built("mlp")


def batches(split: str, size: int) -> list[tuple[Tensor, Tensor]]:
    assert (split, size) == ("test", 64)
    return [(example("mlp", 8, seed), torch.arange(8) % 5) for seed in (5, 6)]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(APP, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized file, the model it was exported from, its float weights and float file."""
    folder, model, plain = tmp_path_factory.mktemp("files"), prepared("mlp"), built("mlp")
    export_onnx(model, example("mlp"), folder / "m.onnx")
    save(model, folder / "m.safetensors")
    write_tensors(folder / "float.safetensors", plain.state_dict(), {})
    onnx.save(to_onnx(plain, example("mlp")), folder / "float.onnx")
    return folder


def test_a_file_is_run_and_its_accuracy_shown(files: Path) -> None:
    shown = run(files / "m.onnx", *DATA)
    assert shown.exit_code == 0
    assert "m.onnx: 16 samples, top1 " in shown.stdout
    assert "3 of 3 layers in integers" in shown.stdout
    assert "8 samples" in run(files / "m.onnx", *DATA, "--batches", "1").stdout


def test_every_reference_is_compared_layer_by_layer(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.json"
    shown = run(
        files / "m.onnx", *DATA, *MODEL, "--weights", files / "float.safetensors",
        "--quantized", files / "m.safetensors", "--reference", files / "float.onnx", "--layers",
        "--exact", "--json", out,
    )  # fmt: skip
    assert shown.exit_code == 0
    report = ValidationReport.from_dict(json.loads(out.read_text("utf-8")))
    names = ["fake_quant", "float", "float.onnx"]
    assert [row.reference for row in report.rows] == names
    assert [each.reference for each in report.tensors] == names
    assert all(each.rows for each in report.tensors)
    assert report.rows[0].sqnr_db > report.rows[1].sqnr_db
    assert report.exact is not None
    assert report.exact.is_exact
    for text in ("layers against float.onnx: ", "worst by LSB:", "exact: "):
        assert text in shown.stdout


def test_quantized_weights_alone_are_compared_with_the_simulation_alone(files: Path) -> None:
    shown = run(files / "m.onnx", *DATA, *MODEL, "--quantized", files / "m.safetensors")
    assert shown.exit_code == 0
    assert "against fake_quant" in shown.stdout
    assert "against float" not in shown.stdout
    assert "against float" in run(files / "m.onnx", *DATA, *MODEL).stdout


def test_an_output_that_is_not_as_predicted_ends_with_1(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = KERNELS["com.microsoft", "QGemm"]

    def wrong(*given: object) -> np.ndarray:
        return right(*given) + 1  # type: ignore[arg-type, operator]

    monkeypatch.setitem(KERNELS, ("com.microsoft", "QGemm"), wrong)
    shown = run(files / "m.onnx", *DATA, "--exact")
    assert shown.exit_code == 1
    assert "(QGemm): 80 of 80" in shown.stdout


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (["--weights", "w.npz"], InputError, "--weights and --quantized are of a model"),
        (["--layers"], InputError, "--layers compares with a reference, and there is none"),
        (["--reference", "a/f.onnx", "--reference", "b/f.onnx"], InputError, "have one name"),
        (["--reference", "none.onnx"], GraphError, "there is no such ONNX file"),
        (["--mean", "a"], InputError, "--mean 'a' is no list of numbers"),
        (["--json", "none/v.json"], InputError, "cannot write here"),
        (["--split", "dev"], InputError, "no split 'dev'"),
        (["--data", "digit"], InputError, "there is no such file"),
    ],
)
def test_what_cannot_be_used_is_said(
    files: Path, options: list[str], error: type[Exception], text: str
) -> None:
    shown = run(files / "m.onnx", *DATA, *options)
    assert isinstance(shown.exception, error)
    assert text in str(shown.exception)


def test_on_an_error_no_report_is_left(files: Path, tmp_path: Path) -> None:
    shown = run(tmp_path / "none.onnx", *DATA, "--json", tmp_path / "v.json")
    assert isinstance(shown.exception, GraphError)
    assert list(tmp_path.iterdir()) == []


def test_the_report_does_not_take_the_place_of_a_file_that_is_read(files: Path) -> None:
    before = (files / "m.onnx").read_bytes()
    shown = run(files / "m.onnx", *DATA, "--json", files / "m.onnx")
    assert isinstance(shown.exception, InputError)
    assert "the report would take the place of another file of this command" in str(shown.exception)
    assert (files / "m.onnx").read_bytes() == before
