"""Quantized instance norms against means and deviations taken in numpy."""

import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.errors import CalibrationError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers
from qdq.nn import QuantInstanceNorm1d, QuantInstanceNorm2d, QuantInstanceNorm3d, TensorQuantizer
from qdq.nn.twins import TWINS
from qdq.spec import QuantSpec

AMAX = 1.7
FLOATS: dict[Any, Any] = {
    QuantInstanceNorm1d: nn.InstanceNorm1d,
    QuantInstanceNorm2d: nn.InstanceNorm2d,
    QuantInstanceNorm3d: nn.InstanceNorm3d,
}
ALL = pytest.mark.parametrize("norm_class", list(FLOATS))


def built(norm_class: Any, **options: Any) -> Any:
    norm = norm_class(3, **options)
    norm._input_quantizer.set_range(None, AMAX)
    return norm


def data(norm_class: Any) -> Tensor:
    sides = (6, 5, 7)[: int(norm_class.__name__[-2])]
    return torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))


def rounded(x: Tensor) -> NDArray[np.float32]:
    scale = np.float32(AMAX) / np.float32(127)
    return np.clip(np.rint(x.detach().numpy() / scale), -128, 127).astype(np.float32) * scale


@ALL
def test_it_normalizes_each_channel_of_each_row_of_a_rounded_input(norm_class: Any) -> None:
    x = data(norm_class)
    x_fq = rounded(x).astype(np.float64)
    sides = tuple(range(2, x_fq.ndim))
    mean, var = x_fq.mean(sides, keepdims=True), x_fq.var(sides, keepdims=True)
    wanted = (x_fq - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(built(norm_class)(x), wanted, atol=1e-5)


@ALL
@pytest.mark.parametrize(
    "options", [{"affine": True}, {"track_running_stats": True}, {"eps": 0.5}], ids=str
)
@pytest.mark.parametrize("training", [False, True])
def test_every_option_does_what_it_does_in_the_float_norm(
    norm_class: Any, options: dict[str, Any], training: bool
) -> None:
    norm, plain = built(norm_class, **options), FLOATS[norm_class](3, **options)
    x = data(norm_class)
    for each in (norm, plain):
        each.train(training)
    assert torch.equal(norm(x), plain(torch.from_numpy(rounded(x))))
    keys = plain.state_dict()
    assert all(torch.equal(norm.state_dict()[key], keys[key]) for key in keys)


@ALL
def test_it_is_its_float_class_with_one_quantizer_and_no_twin(norm_class: Any) -> None:
    norm = norm_class(3, input_spec=QuantSpec(bits=4))
    assert isinstance(norm, FLOATS[norm_class])
    assert norm.kind == "instance_norm"
    assert [type(each) for each in norm.children()] == [TensorQuantizer]
    assert norm._input_quantizer.spec == QuantSpec(bits=4)
    assert FLOATS[norm_class] not in TWINS


@ALL
def test_switched_off_it_is_the_float_norm_and_without_a_range_an_error(norm_class: Any) -> None:
    norm, x = norm_class(3), data(norm_class)
    norm._input_quantizer.site = "norm.input"
    with pytest.raises(CalibrationError, match=r"no range yet\n  at:  norm\.input\n  fix: run"):
        norm(x)
    norm._input_quantizer.enabled = False
    assert torch.equal(norm(x), FLOATS[norm_class](3)(x))


@ALL
def test_a_float_norm_that_changes_its_class_computes_as_one_that_was_built(
    norm_class: Any,
) -> None:
    norm, x = FLOATS[norm_class](3), data(norm_class)
    norm.__class__ = norm_class
    norm.add_quantizers()
    norm._input_quantizer.set_range(None, AMAX)
    assert torch.equal(norm(x), built(norm_class)(x))
    assert torch.equal(norm(x[0]), norm(x)[0])


@ALL
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python:torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:ONNX export mode is set to TrainingMode.EVAL:UserWarning")
def test_plain_export_computes_the_same_in_onnxruntime(norm_class: Any) -> None:
    norm, x, buffer = built(norm_class, affine=True).eval(), data(norm_class), io.BytesIO()
    torch.onnx.export(norm, (x,), buffer, dynamo=False, opset_version=13, input_names=["x"])
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, norm(x).detach(), atol=1e-5)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_one_written_by_hand_stays_on_and_is_calibrated(target: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3), QuantInstanceNorm2d(3), nn.Conv2d(3, 2, 3)).eval()
    x = data(QuantInstanceNorm2d)
    insert(model, x, target=target)
    calibrate(model, [x], method="max", progress=False)
    quantizer = quantizers(model)["1.input"]
    assert quantizer.on
    assert quantizer.calibrated
