"""TensorQuantizer: switches, ranges, calibration, learned clipping and what it says of itself."""

import copy
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from pq_nets import numpy_fake_quant
from torch import Tensor, nn

from qdq.compat.pytorch_quantization.calib import HistogramCalibrator, MaxCalibrator
from qdq.compat.pytorch_quantization.nn import TensorQuantizer
from qdq.compat.pytorch_quantization.tensor_quant import QuantDescriptor
from qdq.errors import CalibrationError, SpecError
from qdq.spec import QuantSpec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [3, 8, 11])
@pytest.mark.parametrize("narrow", [False, True])
def test_fake_quantization_by_a_set_amax_is_the_formula(bits: int, narrow: bool) -> None:
    x = normal(4, 5) * 3
    quantizer = TensorQuantizer(QuantDescriptor(bits, amax=2.5, narrow_range=narrow))
    expected = numpy_fake_quant(x.numpy(), 2.5, bits=bits, narrow=narrow)
    np.testing.assert_array_equal(quantizer(x), expected)


def test_a_default_int8_quantizer_reaches_minus_128_and_a_narrow_one_does_not() -> None:
    x = torch.tensor([-10.0, 10.0])
    wide, narrow = (
        TensorQuantizer(QuantDescriptor(amax=1.27, narrow_range=each)) for each in (False, True)
    )
    torch.testing.assert_close(wide(x), torch.tensor([-1.28, 1.27]))
    torch.testing.assert_close(narrow(x), torch.tensor([-1.27, 1.27]))


def test_without_an_amax_every_tensor_has_its_own_range() -> None:
    quantizer = TensorQuantizer()
    for seed in (1, 2):
        x = normal(3, 4, seed=seed) * seed
        np.testing.assert_array_equal(quantizer(x), numpy_fake_quant(x.numpy(), x.abs().max()))
    assert not hasattr(quantizer, "_amax")


@pytest.mark.parametrize(
    ("axis", "reduced"),
    [(0, (1, 2)), (-1, (0, 1)), ((1,), (0, 2)), ([0, 2], (1,)), ((0, 1, 2), ())],
)
def test_axis_names_the_axes_that_keep_a_range(axis: Any, reduced: tuple[int, ...]) -> None:
    x = normal(3, 4, 5).numpy() * np.linspace(0.1, 3, 5, dtype=np.float32)
    quantizer = TensorQuantizer(QuantDescriptor(axis=axis))
    amax = np.abs(x).max(axis=reduced, keepdims=True)
    np.testing.assert_array_equal(quantizer(torch.from_numpy(x)), numpy_fake_quant(x, amax))


def test_a_vector_of_ranges_is_taken_along_the_kept_axis() -> None:
    x = normal(4, 4)
    quantizer = TensorQuantizer(QuantDescriptor(axis=0))
    quantizer.amax = torch.tensor([0.5, 1.0, 1.5, 2.0])
    column = np.array([[0.5], [1.0], [1.5], [2.0]])
    np.testing.assert_array_equal(quantizer(x), numpy_fake_quant(x.numpy(), column))


def test_scale_amax_widens_the_range_and_leaves_the_buffer_alone() -> None:
    x = normal(50)
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0, scale_amax=1.5))
    np.testing.assert_array_equal(quantizer(x), numpy_fake_quant(x.numpy(), 1.5))
    assert quantizer.amax == 1.0
    assert quantizer.grid().scale == torch.tensor(1.5) / 127


def test_real_quantization_gives_narrow_codes_and_keeps_the_scale() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0, fake_quant=False))
    codes = quantizer(torch.tensor([-9.0, 0.0, 1.0, 9.0]))
    torch.testing.assert_close(codes, torch.tensor([-127.0, 0.0, 64.0, 127.0]))
    assert quantizer.scale == 63.5


def test_the_scale_of_a_fake_quantizer_is_one_and_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    quantizer(torch.ones(1))
    assert quantizer.scale == 1.0
    assert "fake_quant=False" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_fp32_with_a_range_that_stays_fp32(dtype: torch.dtype) -> None:
    x = normal(100).to(dtype)
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.4567)).to(dtype)
    assert quantizer.amax is not None
    assert quantizer.amax.dtype == torch.float32
    expected = numpy_fake_quant(x.float().numpy(), 2.4567)
    assert torch.equal(quantizer(x), torch.from_numpy(expected).to(dtype))


def test_eight_bit_floats_round_like_the_type_itself() -> None:
    x = normal(200) * 2
    quantizer = TensorQuantizer(QuantDescriptor((4, 3), amax=3.0))
    scale = torch.tensor(448.0) / 3.0
    cast = (x * scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() / scale
    torch.testing.assert_close(quantizer(x), cast, rtol=0, atol=0)
    assert quantizer.maxbound == 448.0
    with pytest.raises(SpecError, match="no integer grid"):
        _ = quantizer.spec


def test_pre_quant_scale_works_even_while_disabled() -> None:
    quantizer = TensorQuantizer(disabled=True)
    quantizer.pre_quant_scale = [0.5, 2.0]
    torch.testing.assert_close(quantizer(torch.ones(3, 2)), torch.tensor([[0.5, 2.0]] * 3))
    with pytest.raises(RuntimeError, match="Changing shape when setting pre_quant_scale is not"):
        quantizer.pre_quant_scale = [0.5]


@pytest.mark.parametrize(
    "value",
    [3, 3.0, np.float32(3), np.array(3.0), torch.tensor(3.0), torch.tensor(3.0).double()],
)
def test_amax_takes_any_kind_of_number(value: Any) -> None:
    quantizer = TensorQuantizer()
    quantizer.amax = value
    assert quantizer._amax.dtype == torch.float32
    assert quantizer._amax.shape == ()
    assert quantizer.amax == 3.0
    assert dict(quantizer.named_buffers()).keys() == {"_amax"}


def test_amax_is_overwritten_in_place_and_keeps_its_shape(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=0, amax=[[1.0], [2.0]]))
    held = quantizer._amax
    quantizer.amax = np.array([[3.0], [4.0]])
    assert quantizer._amax is held
    assert held.tolist() == [[3.0], [4.0]]
    with pytest.raises(RuntimeError, match=r"Changing shape when setting amax is not allowed\."):
        quantizer.amax = 1.0
    quantizer.amax = None
    assert held.tolist() == [[3.0], [4.0]]
    assert "amax cannot be set to None" in caplog.text


def test_setting_an_amax_takes_a_copy() -> None:
    given = torch.tensor(1.0)
    quantizer = TensorQuantizer()
    quantizer.amax = given
    given.fill_(5.0)
    assert quantizer.amax == 1.0


def test_bounds_and_steps_follow_the_setters() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=2.0))
    assert quantizer.maxbound == 127
    assert quantizer.step_size == torch.tensor(2.0) / 127
    quantizer.unsigned = True
    assert quantizer.maxbound == 255
    quantizer.num_bits = 4
    assert (quantizer.maxbound, quantizer.num_bits, quantizer.unsigned) == (15, 4, True)
    quantizer.narrow_range = True
    assert quantizer.narrow_range
    assert (quantizer.axis, quantizer.fake_quant) == (None, True)


def test_a_dynamic_range_has_no_step_size(caplog: pytest.LogCaptureFixture) -> None:
    assert TensorQuantizer().step_size is None
    assert "step_size is undefined" in caplog.text


def test_the_switches_choose_between_passing_quantizing_and_collecting() -> None:
    x = normal(20)
    quantizer = TensorQuantizer(if_quant=False, if_calib=True)
    assert quantizer(x) is x
    assert quantizer._calibrator.compute_amax() == x.abs().max()
    quantizer.disable_calib()
    quantizer(x * 9)
    assert quantizer._calibrator.compute_amax() == x.abs().max()
    quantizer.enable_quant()
    assert not torch.equal(quantizer(x), x)
    quantizer.disable()
    assert quantizer(x) is x
    quantizer.enable()
    assert not torch.equal(quantizer(x), x)
    quantizer._disabled = True
    assert quantizer(x) is x


def test_our_switch_and_theirs_are_one() -> None:
    quantizer = TensorQuantizer()
    quantizer.enabled = False
    assert (quantizer._disabled, quantizer.on) == (True, False)
    quantizer.enable()
    assert quantizer.enabled
    quantizer.disable_quant()
    assert not quantizer.enabled
    quantizer.enabled = False  # what only collects goes on collecting
    assert not quantizer._disabled
    quantizer.enabled = True
    assert (quantizer._disabled, quantizer._if_quant) == (False, True)


@pytest.mark.parametrize(
    ("keywords", "kind"),
    [({}, MaxCalibrator), ({"calib_method": "histogram"}, HistogramCalibrator)],
)
def test_the_descriptor_names_the_calibrator(keywords: dict[str, Any], kind: type) -> None:
    assert type(TensorQuantizer(QuantDescriptor(**keywords))._calibrator) is kind


def test_a_calibrated_amax_has_the_shape_of_the_kept_axis() -> None:
    x = normal(4, 3, 2)
    quantizer = TensorQuantizer(QuantDescriptor(axis=(0,)), if_quant=False, if_calib=True)
    quantizer(x)
    quantizer.load_calib_amax()
    assert torch.equal(quantizer._amax, x.abs().amax((1, 2), keepdim=True))


def test_a_histogram_wants_to_know_the_method() -> None:
    x = normal(4000)
    quantizer = TensorQuantizer(QuantDescriptor(calib_method="histogram"))
    quantizer.disable_quant()
    quantizer.enable_calib()
    quantizer(x)
    with pytest.raises(TypeError):
        quantizer.load_calib_amax()
    quantizer.load_calib_amax("percentile", percentile=90)
    low, high = np.percentile(np.abs(x.numpy()), [89, 91])
    assert low <= quantizer.amax <= high


def test_a_calibrator_that_saw_nothing_is_an_error_or_nan() -> None:
    quantizer = TensorQuantizer()
    with pytest.raises(RuntimeError, match=r"^Calibrator returned None"):
        quantizer.load_calib_amax()
    quantizer.load_calib_amax(strict=False)
    assert torch.isnan(quantizer.amax)


def test_another_granularity_can_be_calibrated_later() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0, axis=0), if_calib=True)
    quantizer(normal(3, 2))
    quantizer.load_calib_amax()
    assert quantizer._amax.shape == (3, 1)


def test_learned_limits_start_at_amax_or_one_and_get_pact_gradients() -> None:
    assert TensorQuantizer(QuantDescriptor(learn_amax=True)).clip.clip_value_max == 1.0
    quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True, amax=2.0))
    x = torch.tensor([-3.0, -1.0, 1.0, 2.5, 4.0], requires_grad=True)
    quantizer(x).backward(torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0]))
    assert quantizer.clip.clip_value_min.grad == 1.0
    assert quantizer.clip.clip_value_max.grad == 11000.0
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 10.0, 100.0, 0.0, 0.0]
    np.testing.assert_array_equal(
        quantizer(x).detach(), numpy_fake_quant(x.detach().clamp(-2, 2).numpy(), 2.0)
    )


def test_init_learn_amax_starts_from_the_calibrated_range() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(learn_amax=True))
    with pytest.raises(RuntimeError, match="set amax or call load_calib_amax first"):
        quantizer.init_learn_amax()
    quantizer.amax = 3.0
    quantizer.init_learn_amax()
    assert (quantizer.clip.clip_value_min, quantizer.clip.clip_value_max) == (-3.0, 3.0)
    with pytest.raises(RuntimeError, match="pass learn_amax=True"):
        TensorQuantizer(QuantDescriptor(amax=1.0)).init_learn_amax()


def test_clipping_needs_learn_amax() -> None:
    text = re.escape("learn_amax is False. Cannot enable clip.")
    with pytest.raises(ValueError, match=text):
        TensorQuantizer(if_clip=True)
    with pytest.raises(ValueError, match=text):
        TensorQuantizer().enable_clip()
    learning = TensorQuantizer(QuantDescriptor(learn_amax=True, amax=1.0), if_quant=False)
    assert learning(torch.tensor([5.0])) == 1.0
    learning.disable_clip()
    assert learning(torch.tensor([5.0])) == 5.0


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({}, "8bit fake per-tensor amax=dynamic calibrator=MaxCalibrator scale=1.0 quant"),
        (
            {"axis": 0, "amax": [0.2838, 0.3, 0.436], "unsigned": True, "num_bits": 4},
            "unsigned 4bit fake axis=0 amax=[0.2838, 0.4360](3) calibrator=MaxCalibrator "
            "scale=1.0 quant",
        ),
        (
            {"amax": 2.459, "narrow_range": True, "scale_amax": 0.5, "calib_method": "histogram"},
            "8bit narrow fake per-tensor amax=2.4590 *0.5 calibrator=HistogramCalibrator "
            "scale=1.0 quant",
        ),
        (
            {"fake_quant": False},
            "8bit per-tensor amax=dynamic calibrator=MaxCalibrator scale=1.0 quant",
        ),
    ],
)
def test_the_repr_says_everything_in_one_line(keywords: dict[str, Any], text: str) -> None:
    assert repr(TensorQuantizer(QuantDescriptor(**keywords))) == f"TensorQuantizer({text})"


def test_the_repr_names_every_stage_that_is_on() -> None:
    learning = TensorQuantizer(QuantDescriptor(learn_amax=True), if_calib=True)
    learning.pre_quant_scale = 2.0
    said = learning.extra_repr()
    assert said.endswith(
        " amax=dynamic pre_quant_scale learned calibrator=MaxCalibrator scale=1.0 quant clip calib"
    )
    assert repr(TensorQuantizer(disabled=True)) == "TensorQuantizer(disabled)"


def test_an_unknown_calibration_method_warns_until_there_is_an_amax(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quantizer = TensorQuantizer(QuantDescriptor(calib_method="entropy"), if_quant=False)
    assert "'entropy' is none of" in caplog.text
    assert quantizer._calibrator is None
    assert "calibrator" not in repr(quantizer)
    quantizer.enable_calib()
    caplog.clear()
    quantizer(torch.ones(2))
    assert "no calibrator and no amax" in caplog.text
    with pytest.raises(RuntimeError, match=r"^Calibrator returned None"):
        quantizer.load_calib_amax()
    quantizer.amax = 1.0
    caplog.clear()
    quantizer(torch.ones(2))
    assert caplog.text == ""


def test_messages_go_to_one_logger_at_the_levels_of_old(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    quantizer = TensorQuantizer(if_calib=True)
    quantizer(torch.ones(2))
    quantizer.load_calib_amax()
    quantizer.disable_calib()
    assert {record.name for record in caplog.records} == {"pytorch_quantization"}
    levels = [(record.levelname, record.message.split()[0]) for record in caplog.records]
    assert ("INFO", "Creating") in levels
    assert ("WARNING", "load") in levels
    assert ("WARNING", "disable") in levels


def test_set_range_holds_any_shape_and_forgets() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=0, amax=[[1.0], [2.0]]))
    quantizer.set_range(-3.0, 2.0)
    assert quantizer.amax == 3.0
    assert quantizer.amin == -3.0
    quantizer.set_range(None, None)
    assert not quantizer.calibrated
    assert quantizer.amin is None
    assert not hasattr(quantizer, "_amax")
    unsigned = TensorQuantizer(QuantDescriptor(unsigned=True))
    unsigned.set_range(-3.0, 2.0)
    assert (unsigned.amin, unsigned.amax) == (0.0, 2.0)
    for ends in ((1.0, -1.0), (0.0, float("nan"))):
        with pytest.raises(SpecError, match="is no range"):
            quantizer.set_range(*ends)


def test_the_grid_has_a_scale_per_entry_of_the_kept_axis() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(axis=1, amax=[[[1.0], [2.0]]]))
    grid = quantizer.grid()
    assert torch.equal(grid.scale, torch.tensor([1.0, 2.0]) / 127)
    assert grid.spec == QuantSpec(keep_axis=1)
    x = normal(3, 2, 4)
    dynamic = TensorQuantizer(QuantDescriptor(axis=1)).grid(x)
    assert torch.equal(dynamic.scale, x.abs().amax((0, 2)) / 127)
    with pytest.raises(CalibrationError, match="no range yet"):
        TensorQuantizer().grid()


def test_several_kept_axes_have_no_spec() -> None:
    with pytest.raises(SpecError, match="keeps several axes"):
        _ = TensorQuantizer(QuantDescriptor(axis=(0, 1))).spec


def test_a_spec_with_a_zero_point_is_refused() -> None:
    with pytest.raises(SpecError, match="has a zero point"):
        TensorQuantizer().spec = QuantSpec(symmetric=False)
    quantizer = TensorQuantizer()
    quantizer.spec = QuantSpec(bits=5, signed=False, keep_axis=2)
    assert (quantizer.num_bits, quantizer.unsigned, quantizer.axis) == (5, True, 2)
    assert quantizer.spec == QuantSpec(bits=5, signed=False, keep_axis=2)


def test_a_copy_is_whole_and_its_own() -> None:
    quantizer = TensorQuantizer(QuantDescriptor(amax=1.0))
    twin = copy.deepcopy(quantizer)
    twin.amax = 2.0
    assert (quantizer.amax, twin.amax) == (1.0, 2.0)
    assert isinstance(twin, nn.Module)
    assert twin._calibrator is not quantizer._calibrator
