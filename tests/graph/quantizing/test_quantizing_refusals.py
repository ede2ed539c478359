"""quantize says why it cannot: files, data, models and names that do not do, with exact texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from qdq.errors import CalibrationError, GraphError, InputError, RegistryError
from qdq.graph import quantize
from qdq.records.quantizing import QuantizationReport
from tests.graph.quantizing.float_nets import FloatNet, images, residual_net, saved


def quantized(
    model: ModelProto, folder: Path, data: Any = None, target: str = "onnxruntime", **options: Any
) -> QuantizationReport:
    source = saved(model, folder)
    given = images() if data is None else data
    return quantize(source, folder / "q.onnx", given, target=target, progress=False, **options)


def test_a_quantized_file_is_refused_and_retarget_named(tmp_path: Path) -> None:
    quantized(residual_net(), tmp_path)
    (tmp_path / "two").mkdir()
    with pytest.raises(GraphError) as refused:
        quantized(onnx.load(tmp_path / "q.onnx"), tmp_path / "two")
    assert str(refused.value).startswith(
        "the file is quantized already: it holds DequantizeLinear, QuantizeLinear\n"
    )
    assert "qdq.graph.retarget" in str(refused.value)


def test_a_file_without_anything_to_quantize_is_refused_with_reasons(tmp_path: Path) -> None:
    net = FloatNet("n", 4)
    model = net.model(net.op("Softmax", net.op("Erf", "x", name="erf")))
    with pytest.raises(GraphError) as refused:
        quantized(model, tmp_path, images(2, 4))
    assert str(refused.value).startswith(
        "nothing in this file would compute in integers on onnxruntime: erf: there is no integer "
        "kernel of Erf; softmax1: there is no integer kernel of Softmax\n"
    )


def test_a_double_precision_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    net = FloatNet(1, 3, 4, 4, dtype=TensorProto.DOUBLE)
    weight = net.hold(net.draw(4, 3, 1, 1).astype(np.float64))
    model = net.model(net.op("Conv", "x", weight, name="conv"))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(GraphError, match="conv: its weight is float64"):
        quantized(model, tmp_path, images(1, 3, 4, 4).astype(np.float64))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "the data holds no batch"),
        (
            [{"y": images(2), "z": images(2)}],
            "the file takes x, and got y, z\n  at:  batch 0\n",
        ),
        ([images(2, 3, 8, 7)], "the file takes (batch, 3, 8, 8) and got (2, 3, 8, 7)\n"),
        ([images(2, 3, 8)], "the file takes (batch, 3, 8, 8) and got (2, 3, 8)\n"),
        ([np.zeros((1, 3, 8, 8), np.complex64)], "the file takes float32 and got complex64\n"),
        ([np.full((1, 3, 8, 8), np.nan, np.float32)], "the data holds NaN or infinity\n"),
        (7, "the data is a int, which cannot be iterated"),
    ],
)
def test_data_that_does_not_fit_is_refused_and_nothing_written(
    tmp_path: Path, data: Any, said: str
) -> None:
    with pytest.raises(InputError) as refused:
        quantized(residual_net(), tmp_path, data)
    assert str(refused.value).startswith(said)
    assert [each.name for each in tmp_path.iterdir()] == ["float.onnx"]


def test_a_model_that_makes_infinity_of_a_batch_is_named_with_the_tensor(tmp_path: Path) -> None:
    net = FloatNet("n", 2, 4, 4)
    model = net.model(net.conv(net.op("Exp", "x"), 4, 2))
    data = [images(1, 2, 4, 4), images(1, 2, 4, 4) * 1000]
    with pytest.raises(CalibrationError) as refused:
        quantized(model, tmp_path, data)
    assert str(refused.value).startswith("batch 1 makes NaN or infinity here: ")
    assert "at:  t0" in str(refused.value)


def test_a_misspelled_method_or_target_costs_no_pass_over_the_data(tmp_path: Path) -> None:
    def never() -> Iterator[Any]:
        raise AssertionError("read")
        yield

    with pytest.raises(RegistryError, match="no calibration method 'mes'"):
        quantized(residual_net(), tmp_path, never(), method="mes")
    with pytest.raises(RegistryError, match="no target 'onnx'"):
        quantized(residual_net(), tmp_path, never(), target="onnx")
