"""validate(layers=True): where a file leaves its references, in codes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
import torch
from torch import nn

from qdq.calibration.choosing import calibrate
from qdq.errors import InputError
from qdq.export.tracing import to_onnx
from qdq.export.writing import export_onnx
from qdq.graph.speed import PASSES
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers
from qdq.records.validation import LayerReport, TensorRow, ValidationReport
from qdq.validation.comparing import validate
from tests.export.export_nets import built, example, prepared
from tests.graph.explained_files import file_of
from tests.graph.graph_sketch import Sketch


def layers(path: Path, data: list[Any], **reference: Any) -> LayerReport:
    report = validate(path, data, reference=reference, layers=True, progress=False)
    assert ValidationReport.from_dict(report.to_dict()) == report
    (found,) = report.tensors
    return found


@pytest.fixture
def mlp(tmp_path: Path) -> tuple[nn.Module, Path]:
    model, path = prepared("mlp", "tensorrt"), tmp_path / "m.onnx"
    export_onnx(model, example("mlp"), path)
    return model, path


def shifted(path: Path, initializer: str, change: float) -> Path:
    """The file with one bias moved by so much."""
    model = onnx.load(path)
    held = next(each for each in model.graph.initializer if each.name == initializer)
    values = onnx.numpy_helper.to_array(held) + np.float32(change)
    held.CopyFrom(onnx.numpy_helper.from_array(values, initializer))
    other = path.with_name("shifted.onnx")
    onnx.save(model, other)
    return other


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", ["mlp", "identity_skip", "max_pool_chain", "two_inputs"])
def test_a_file_and_the_simulation_it_was_exported_from_have_equal_codes(
    tmp_path: Path, name: str, target: str
) -> None:
    model, path = prepared(name, target), tmp_path / "m.onnx"
    export_onnx(model, example(name), path, skip_passes=PASSES if target != "tensorrt" else ())
    found = layers(path, [(example(name), None)], fake_quant=model)
    assert all("_output_" in name for name in found.missing)  # a site's codes before they moved
    assert not any(each._forward_hooks for each in quantizers(model).values())
    active = [site for site, each in quantizers(model).items() if each.on]
    rows = {row.name: row for row in found.rows}
    assert rows.keys() <= set(active)
    assert "weight" not in " ".join(rows)
    assert sum(row.differing for row in found.rows) <= 2  # values on the border of two codes
    assert all(row.largest <= 1 for row in found.rows)


def test_the_first_tensor_that_differs_is_the_one_behind_the_change(
    mlp: tuple[nn.Module, Path],
) -> None:
    model, path = mlp
    other = shifted(path, next(n for n in initializers(path) if n.startswith("0.bias")), 3.0)
    data = [(example("mlp"), None), (example("mlp", seed=7), None)]
    found = layers(other, data, fake_quant=model)
    assert [row.differing for row in found.rows][:1] == [0]
    assert found.first is not None
    assert found.first.name == "2.input"
    assert found.first.largest > 10
    assert found.worst_by_lsb[0].largest == max(row.largest for row in found.rows)
    assert found.worst_by_sqnr[0].sqnr_db == min(row.sqnr_db for row in found.rows)
    shown = str(found)
    assert "the first that differs is 2.input: " in shown
    assert f"up to {found.first.largest} LSB" in shown
    assert "worst by SQNR:" in shown


def initializers(path: Path) -> list[str]:
    return [each.name for each in onnx.load(path).graph.initializer]


def test_the_figures_are_those_of_numpy(mlp: tuple[nn.Module, Path]) -> None:
    _, path = mlp
    other = shifted(path, next(n for n in initializers(path) if n.startswith("0.bias")), 0.3)
    x = example("mlp")
    row = next(row for row in layers(other, [(x, None)], same=path).rows if row.name == "2.input")
    sides = []
    for file in (path, other):
        proto = onnx.load(file)
        proto.graph.output.append(onnx.ValueInfoProto(name="2.input"))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(proto.SerializeToString(), options)
        sides.append(session.run(["2.input"], {"input": x.numpy()})[0].astype(np.float64))
    scale = float(onnx.numpy_helper.to_array(next(
        each for each in onnx.load(path).graph.initializer if each.name == "2.input.scale"
    )))  # fmt: skip
    steps = np.abs(np.rint((sides[0] - sides[1]) / scale))
    assert (row.values, row.differing, row.largest) == (
        steps.size, np.count_nonzero(steps), steps.max(),
    )  # fmt: skip
    assert row.mean == pytest.approx(steps.mean())
    noise = ((sides[0] - sides[1]) ** 2).sum()
    assert row.sqnr_db == pytest.approx(10 * math.log10((sides[0] ** 2).sum() / noise))


@pytest.mark.parametrize("name", ["mlp", "conv_last", "batch_norm_chain", "two_inputs"])
def test_a_float_model_is_followed_site_by_site_and_left_as_it_was(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(prepared(name), example(name), path)
    model = built(name)
    kinds = [type(each) for each in model.modules()]
    found = layers(path, [(example(name), None)], float=model)
    assert [type(each) for each in model.modules()] == kinds
    first, *_, last = found.rows
    assert first.differing == 0  # the input itself: rounding it is no difference
    assert 0 < last.largest < 30
    assert last.sqnr_db > 15


def test_a_float_file_is_compared_by_the_names_that_q_reads(tmp_path: Path) -> None:
    model = built("mlp")
    onnx.save(to_onnx(model, example("mlp")), tmp_path / "float.onnx")
    path = tmp_path / "m.onnx"
    export_onnx(prepared("mlp", "tensorrt"), example("mlp"), path)
    by_file = layers(path, [(example("mlp"), None)], float=tmp_path / "float.onnx")
    by_model = layers(path, [(example("mlp"), None)], float=model)
    assert [row.name for row in by_file.rows] == [row.name for row in by_model.rows]
    for one, other in zip(by_file.rows, by_model.rows, strict=True):
        assert abs(one.differing - other.differing) <= 0.05 * one.values
        assert one.sqnr_db == pytest.approx(other.sqnr_db, abs=1.0)


def test_a_file_against_itself_differs_nowhere(mlp: tuple[nn.Module, Path]) -> None:
    _, path = mlp
    found = layers(path, [(example("mlp"), None)], same=path)
    assert found.first is None
    assert found.worst_by_lsb == found.worst_by_sqnr == ()
    assert {row.sqnr_db for row in found.rows} == {math.inf}
    assert (
        str(found)
        == f"layers against same: {len(found.rows)} tensors compared; all codes are equal"
    )


def test_channels_that_padding_added_are_left_aside(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    x = torch.randn(2, 3, 12, 12)
    insert(model, x, target="onnxruntime")
    calibrate(model, [x], progress=False)
    done = export_onnx(model, x, tmp_path / "m.onnx")
    assert done.passes["pad_stem"] == 1
    row = layers(tmp_path / "m.onnx", [x], fake_quant=model).rows[0]
    assert (row.name, row.values, row.differing) == ("0.input", x.numel(), 0)


def test_a_tensor_of_another_shape_has_no_counterpart(tmp_path: Path) -> None:
    sides = []
    for times in (1, 2):
        draw = Sketch(2, 4)
        x = draw.pair(draw.x, "a")
        wide = draw.node("Concat", *[x] * times, axis=1)
        mean = draw.node("ReduceMean", draw.pair(wide, "b"), axes=[1])
        sides.append(file_of(draw.done(mean), tmp_path, f"{times}.onnx"))
    found = layers(sides[1], [torch.zeros(2, 4)], narrow=sides[0])
    assert [row.name for row in found.rows] == ["x", "Concat_0.out"]
    assert [row.values for row in found.rows] == [8, 8]  # what the longer one has beyond is padding
    found = layers(sides[0], [torch.zeros(2, 4)], wide=sides[1])
    assert [row.name for row in found.rows] == ["x"]
    assert found.missing == ("Concat_0.out",)


def test_rows_are_sorted_by_what_they_are_asked_for() -> None:
    def row(name: str, largest: int, ratio: float) -> TensorRow:
        return TensorRow(name, name, 10, 1, largest, largest / 10, ratio)

    rows = tuple(row(f"t{n}", n, float((n * 7) % 20)) for n in range(1, 16))
    report = LayerReport(
        "r", ("gone",), (*rows, TensorRow("same", "same", 10, 0, 0, 0.0, math.inf))
    )
    assert [each.largest for each in report.worst_by_lsb] == list(range(15, 5, -1))
    ratios = [each.sqnr_db for each in report.worst_by_sqnr]
    assert ratios == sorted(each.sqnr_db for each in rows)[:10]
    assert (
        "16 tensors compared, 1 without a counterpart; the first that differs is t1: 1 of 10"
        in str(report)
    )


def test_what_has_no_layers_to_compare_is_said(mlp: tuple[nn.Module, Path], tmp_path: Path) -> None:
    _, path = mlp
    data = [(example("mlp"), None)]
    with pytest.raises(InputError, match="compares with a reference, and there is none"):
        validate(path, data, layers=True, progress=False)
    onnx.save(to_onnx(built("mlp"), example("mlp")), tmp_path / "float.onnx")
    with pytest.raises(InputError, match="this file quantizes no tensor"):
        validate(tmp_path / "float.onnx", data, reference=path, layers=True, progress=False)
    stranger = Sketch(4, 12)
    other = file_of(
        stranger.done(stranger.node("MatMul", stranger.x, weight())), tmp_path, "other.onnx"
    )
    with pytest.raises(InputError, match=r"other has none of the \d tensors that the file"):
        layers(path, data, other=other)


def weight() -> gs.Constant:
    return gs.Constant("w", np.ones((12, 5), np.float32))


def test_a_float_model_that_takes_no_quantizers_is_refused(tmp_path: Path) -> None:
    draw = Sketch(4, 12)
    path = file_of(draw.done(draw.pair(draw.x, "a")), tmp_path)
    with pytest.raises(InputError, match="the layers of this float model cannot be followed"):
        layers(path, [torch.zeros(4, 12)], float=nn.Identity())


def test_a_layer_on_rows_is_compared_with_one_on_sequences(tmp_path: Path) -> None:
    model = prepared("linear_on_sequences", "onnxruntime")
    path, x = tmp_path / "m.onnx", example("linear_on_sequences")
    done = export_onnx(model, x, path)
    assert done.passes["multiply_flat"]
    found = layers(path, [x], fake_quant=model)
    assert [row.values for row in found.rows][:1] == [x.numel()]
    assert not [name for name in found.missing if name.endswith(".input")]
    assert found.first is None
