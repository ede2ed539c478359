"""QuantEmbedding against rows of a table rounded in numpy."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.errors import SpecError
from qdq.export.writing import export_onnx
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn import QuantEmbedding
from qdq.nn.twins import TWINS, why_float
from qdq.spec import QuantSpec

ROWS, WIDTH = 7, 5
OFF = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def twin(**options: Any) -> tuple[nn.Embedding, Any]:
    torch.manual_seed(0)
    plain = nn.Embedding(ROWS, WIDTH, **options)
    layer: Any = copy.deepcopy(plain)
    layer.__class__ = QuantEmbedding
    layer.add_quantizers()
    return plain, layer


def picks() -> Tensor:
    return torch.tensor([[0, 3, 3], [6, 1, 0]])


def rounded(table: Tensor, axis: int | None = None) -> NDArray[np.float32]:
    """On the grid -127..127 of one scale, or of one per row."""
    w = table.detach().numpy()
    scale = np.abs(w).max(axis=axis, keepdims=axis is not None) / np.float32(127)
    return np.asarray(np.rint(w / scale) * scale)


def session(content: bytes) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = OFF
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def test_it_is_the_registered_twin() -> None:
    assert TWINS[nn.Embedding] is QuantEmbedding
    assert QuantEmbedding.kind == "embedding"


def test_it_gives_rows_of_the_table_rounded_to_one_scale() -> None:
    _, layer = twin()
    assert np.array_equal(layer(picks()).detach(), rounded(layer.weight)[picks()])
    grid = layer.weight_grid()
    assert (grid.spec.qmin, grid.spec.qmax, grid.scale.dim()) == (-127, 127, 0)
    (weight, listed) = layer.weights()["weight"]
    assert weight is layer.weight
    assert torch.equal(listed.scale, grid.scale)


def test_the_scale_is_that_of_the_table_and_not_of_what_is_read() -> None:
    _, layer = twin()
    with torch.no_grad():
        layer.weight[5] = 50.0  # never read
    assert np.array_equal(layer(picks()).detach(), rounded(layer.weight)[picks()])
    layer._weight_quantizer.set_range(None, 1.0)
    step = np.float32(1) / np.float32(127)
    codes = np.clip(np.rint(layer.weight.detach().numpy()[picks()] / step), -127, 127)
    assert np.array_equal(layer(picks()).detach(), codes * step)


def test_a_scale_per_row_can_be_simulated() -> None:
    _, layer = twin()
    layer.add_quantizers(QuantSpec(narrow=True, keep_axis=0))
    np.testing.assert_allclose(
        layer(picks()).detach(), rounded(layer.weight, axis=1)[picks()], atol=1e-7
    )


def test_switched_off_it_is_the_float_layer() -> None:
    plain, layer = twin(padding_idx=3)
    layer._weight_quantizer.enabled = False
    assert torch.equal(layer(picks()), plain(picks()))


def test_indices_of_any_shape_and_type_are_taken() -> None:
    _, layer = twin()
    whole = layer(torch.arange(ROWS))
    assert torch.equal(layer(torch.tensor(4)), whole[4])
    assert torch.equal(layer(picks().int()), layer(picks()))
    assert layer(torch.zeros(2, 0, 3, dtype=torch.long)).shape == (2, 0, 3, WIDTH)


@pytest.mark.parametrize("spec", [None, QuantSpec(narrow=True, keep_axis=0)], ids=str)
@pytest.mark.parametrize("options", [{}, {"padding_idx": 3}, {"scale_grad_by_freq": True}], ids=str)
def test_gradients_are_those_of_the_float_layer(
    options: dict[str, Any], spec: QuantSpec | None
) -> None:
    plain, layer = twin(**options)
    layer.add_quantizers(spec)
    for each in (plain, layer):
        (each(picks()) * torch.arange(WIDTH)).sum().backward()
    assert plain.weight.grad is not None
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_its_gradient_stays_sparse() -> None:
    _, layer = twin(sparse=True)
    layer(picks()).sum().backward()
    assert layer.weight.grad.is_sparse


def test_the_keys_of_its_state_are_those_of_the_float_layer() -> None:
    plain, layer = twin()
    assert list(layer.state_dict()) == ["weight"]
    plain.load_state_dict(layer.state_dict(), strict=True)
    built = QuantEmbedding.from_pretrained(layer.weight.detach())
    assert torch.equal(built(picks()), layer(picks()))


def test_a_table_that_changes_while_it_is_read_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        QuantEmbedding(ROWS, WIDTH, max_norm=2.0)
    assert str(caught.value) == (
        "an embedding whose table is no constant cannot be quantized: max_norm=2.0 rescales rows "
        "of the table while it is read\n"
        "  fix: leave it float with ignore=, or set max_norm=None once it is trained"
    )
    assert why_float(nn.Embedding(ROWS, WIDTH, max_norm=2.0)).startswith("max_norm=2.0 rescales")
    assert why_float(nn.Embedding(ROWS, WIDTH)) == ""


# ---- ONNX


def test_plain_export_computes_the_same_in_onnxruntime() -> None:
    _, layer = twin()
    buffer = io.BytesIO()
    torch.onnx.export(
        layer, (picks(),), buffer, dynamo=False, opset_version=13, input_names=["ids"],
        dynamic_axes={"ids": {0: "batch"}},
    )  # fmt: skip
    ids = torch.tensor([[5, 0, 2]])
    (found,) = session(buffer.getvalue()).run(None, {"ids": ids.numpy()})
    assert np.array_equal(found, layer(ids).detach())


def test_in_a_model_its_table_is_exported_as_codes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 4)).eval()
    insert(model, picks(), target="onnxruntime")
    assert set(quantizers(model)) == {"0.weight", "1.input", "1.weight", "1.output"}
    calibrate(model, [picks()], progress=False)
    export_onnx(model, picks(), tmp_path / "m.onnx")
    held = {each.name: each for each in onnx.load(tmp_path / "m.onnx").graph.initializer}
    table = onnx.numpy_helper.to_array(held["0.weight.codes"])
    weight = model[0].weight.detach().numpy()
    assert table.dtype == np.int8
    assert np.array_equal(table, np.rint(weight / (np.abs(weight).max() / np.float32(127))))
    (found,) = session((tmp_path / "m.onnx").read_bytes()).run(None, {"input": picks().numpy()})
    np.testing.assert_allclose(found, model(picks()).detach(), atol=1e-5)


def test_its_switch_is_a_site_like_any_other() -> None:
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 4)).eval()
    insert(model, picks())
    with disable_quantization(model, "0.weight"):
        assert torch.equal(model[0](picks()), model[0].weight[picks()])
