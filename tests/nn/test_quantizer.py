"""TensorQuantizer: its range, its switches, and its state in and out of checkpoints."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from qdq.errors import CalibrationError, ExportError, SpecError
from qdq.nn import QuantConv2d, QuantLinear, TensorQuantizer
from qdq.nn.symbolic import emit_markers
from qdq.spec import QuantSpec

UINT8 = QuantSpec(signed=False, symmetric=False)
CHANNELS = QuantSpec(keep_axis=0)


def rounded(x: Tensor, scale: np.float32, low: int, high: int, zero_point: int = 0) -> np.ndarray:
    """Fake quantization in numpy's float32."""
    steps = np.rint(x.detach().numpy() / scale)
    return np.clip(steps, low - zero_point, high - zero_point) * scale


def ranged(
    amin: object, amax: object, spec: QuantSpec | None = None, site: str = ""
) -> TensorQuantizer:
    quantizer = TensorQuantizer(spec)
    quantizer.site = site
    quantizer.set_range(amin, amax)  # type: ignore[arg-type]
    return quantizer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(QuantConv2d(1, 2, 3), nn.Flatten(), QuantLinear(8, 3))


def float_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))


def calibrated_net(weight: object = None) -> nn.Sequential:
    """Symmetric, affine and per-channel ranges."""
    model = net()
    model[0]._input_quantizer.set_range(None, 1.1)
    model[2]._input_quantizer.set_range(-0.3, 2.2)
    model[2]._weight_quantizer.set_range(None, torch.tensor([0.1, 0.2, 0.3]))
    return model


def ranges(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if "_quantizer." in name}


# ---- passing x through


def test_x_is_rounded_to_the_grid_of_the_range() -> None:
    x = torch.linspace(-2, 2, 1001)
    expected = rounded(x, np.float32(1.3) / np.float32(127), -128, 127)
    np.testing.assert_array_equal(ranged(-0.4, 1.3)(x), expected)


def test_amax_alone_is_the_largest_magnitude() -> None:
    quantizer = ranged(None, 1.5, UINT8)
    assert (quantizer.amin, quantizer.amax) == (torch.tensor(-1.5), torch.tensor(1.5))
    x = torch.linspace(-3, 3, 1001)
    step = np.float32(1.5) / 255 + np.float32(1.5) / 255
    expected = rounded(x, step, 0, 255, zero_point=128)
    np.testing.assert_allclose(quantizer(x), expected, rtol=1e-6)


def test_a_dynamic_quantizer_takes_the_range_of_each_tensor() -> None:
    quantizer = TensorQuantizer(CHANNELS, dynamic=True)
    for factor in (1, 10):
        x = torch.tensor([[1.0, -2.0, 0.3], [0.1, 0.5, 0.25]]) * factor
        scales = np.float32([[2.0 * factor], [0.5 * factor]]) / np.float32(127)
        expected = np.rint(x.numpy() / scales) * scales
        np.testing.assert_array_equal(quantizer(x), expected)
        assert not quantizer.calibrated


def test_a_range_that_was_set_wins_over_the_dynamic_one() -> None:
    quantizer = TensorQuantizer(dynamic=True)
    quantizer.set_range(None, 0.5)
    x = torch.tensor([3.0, 0.2])
    expected = rounded(x, np.float32(0.5) / np.float32(127), -128, 127)
    np.testing.assert_array_equal(quantizer(x), expected)


@pytest.mark.parametrize(
    ("enabled", "active", "on"),
    [(True, True, True), (False, True, False), (True, False, False), (False, False, False)],
)
def test_x_is_rounded_only_while_user_and_target_both_want_it(
    enabled: bool, active: bool, on: bool
) -> None:
    quantizer = ranged(None, 1.0)
    quantizer.enabled, quantizer.active = enabled, active
    x = torch.tensor([0.123456])
    assert quantizer.on == on
    assert (quantizer(x) is x) == (not on)


def test_a_quantizer_that_is_off_needs_no_range() -> None:
    quantizer = TensorQuantizer()
    quantizer.enabled = False
    x = torch.ones(2)
    assert quantizer(x) is x


def test_without_a_range_it_names_its_site_and_the_fix() -> None:
    quantizer = TensorQuantizer()
    quantizer.site = "layer1.0.conv1.input"
    with pytest.raises(CalibrationError) as caught:
        quantizer(torch.ones(2))
    assert str(caught.value) == (
        "this quantizer has no range yet\n"
        "  at:  layer1.0.conv1.input\n"
        "  fix: run qdq.calibrate(model, data) with data that reaches it, or switch it off with "
        "qdq.disable_quantization(model, ...)"
    )


def test_a_dynamic_quantizer_without_a_tensor_has_no_grid() -> None:
    with pytest.raises(CalibrationError, match="no range yet"):
        TensorQuantizer(dynamic=True).grid()


def test_the_range_never_reaches_past_the_clamp_behind_the_site() -> None:
    quantizer = ranged(-3.0, 8.0, UINT8)
    quantizer.limits = (0.0, 6.0)
    x = torch.linspace(-4, 9, 1001)
    grid = quantizer.grid()
    assert (grid.amin.item(), grid.amax.item(), grid.zero_point.item()) == (0, 6, 0)
    np.testing.assert_array_equal(quantizer(x), rounded(x, np.float32(6) / np.float32(255), 0, 255))
    assert (quantizer.amin, quantizer.amax) == (torch.tensor(-3.0), torch.tensor(8.0))


def test_an_observer_sees_site_and_tensor_whatever_its_limits_and_x_passes_unchanged() -> None:
    seen: list[tuple[str, Tensor]] = []
    quantizer = TensorQuantizer()
    quantizer.site, quantizer.observer = "fc.output", lambda site, x: seen.append((site, x))
    x = torch.tensor([-1.0, 7.0])
    assert quantizer(x) is x
    quantizer.limits = (0.0, 6.0)
    assert quantizer(x) is x
    assert [site for site, _ in seen] == ["fc.output", "fc.output"]
    assert seen[0][1] is x
    assert seen[1][1] is x


def test_an_inactive_quantizer_is_observed_too() -> None:
    seen: list[str] = []
    quantizer = TensorQuantizer()
    quantizer.active, quantizer.observer = False, lambda site, x: seen.append(site)
    quantizer(torch.ones(1))
    assert len(seen) == 1


def test_gradients_reach_x_only_from_inside_the_range() -> None:
    x = torch.tensor([-2.0, -1.0, 0.3, 1.0, 2.0], requires_grad=True)
    ranged(None, 1.0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_grid_lies_where_the_tensor_lies() -> None:
    x = torch.empty(3, device="meta")
    for amin in (None, -0.5):
        grid = ranged(amin, 1.0, UINT8).grid(x)
        assert {t.device.type for t in (grid.scale, grid.zero_point, grid.amin, grid.amax)} == {
            "meta"
        }


# ---- setting a range


@pytest.mark.parametrize(
    ("amin", "amax", "what"),
    [
        (-1.0, float("inf"), "the range [-1.0, inf] is not finite"),
        (float("nan"), 1.0, "the range [nan, 1.0] is not finite"),
        (None, float("nan"), "the range [None, nan] is not finite"),
        (float("-inf"), 1.0, "the range [-inf, 1.0] is not finite"),
    ],
)
def test_an_end_that_is_not_finite_is_refused_at_its_site(amin: Any, amax: Any, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        ranged(amin, amax, site="fc.input")
    assert str(caught.value) == f"{what}\n  at:  fc.input\n  fix: pass finite ends"


@pytest.mark.parametrize(("amin", "amax"), [(2.0, 1.0), (None, -1.0)])
def test_a_range_upside_down_is_refused_at_its_site(amin: Any, amax: float) -> None:
    with pytest.raises(SpecError) as caught:
        ranged(amin, amax, site="fc.input")
    assert str(caught.value) == (
        f"the range [{amin}, {amax}] is upside down\n  at:  fc.input\n  fix: pass amin <= amax"
    )


def test_one_channel_upside_down_is_enough() -> None:
    with pytest.raises(SpecError, match="upside down"):
        ranged(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]), CHANNELS)


@pytest.mark.parametrize(
    ("amin", "amax", "spec", "shapes"),
    [
        (None, torch.ones(2), QuantSpec(), "(2,) and (2,)"),
        (torch.zeros(()), torch.ones(2), CHANNELS, "() and (2,)"),
        (torch.zeros(3), torch.ones(2), CHANNELS, "(3,) and (2,)"),
    ],
)
def test_a_range_that_does_not_fit_the_axis_is_refused(
    amin: Any, amax: Tensor, spec: QuantSpec, shapes: str
) -> None:
    with pytest.raises(SpecError) as caught:
        ranged(amin, amax, spec, site="fc.weight")
    assert str(caught.value) == (
        f"a range with ends of shape {shapes} does not fit {spec}\n  at:  fc.weight\n"
        "  fix: pass two numbers, or with keep_axis two vectors with a range per entry"
    )


def test_a_refused_range_leaves_the_old_one() -> None:
    quantizer = ranged(-1.0, 2.0)
    with pytest.raises(SpecError):
        quantizer.set_range(0.0, float("inf"))
    assert (quantizer.amin, quantizer.amax) == (torch.tensor(-1.0), torch.tensor(2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_range_is_a_float32_copy_without_gradient(dtype: torch.dtype) -> None:
    amax = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    quantizer = ranged(None, amax, CHANNELS)
    held = quantizer.amax
    assert held is not None
    assert (held.dtype, held.requires_grad) == (torch.float32, False)
    with torch.no_grad():
        amax.fill_(9)
    assert held.tolist() == [1, 2]


def test_amax_none_forgets_the_range() -> None:
    quantizer = ranged(-1.0, 2.0)
    quantizer.set_range(None, None)
    assert not quantizer.calibrated
    assert quantizer.amin is None
    assert quantizer.amax is None
    assert quantizer.state_dict() == {}


def test_setting_amax_alone_drops_a_lower_end_from_before() -> None:
    quantizer = ranged(-1.0, 2.0)
    quantizer.set_range(None, 3.0)
    assert quantizer.amin == torch.tensor(-3.0)
    assert set(quantizer.state_dict()) == {"_amax"}


def test_print_shows_grid_range_and_switch() -> None:
    assert repr(TensorQuantizer()) == "TensorQuantizer(int8 symmetric per-tensor, no range)"
    assert "dynamic" in repr(TensorQuantizer(dynamic=True))
    assert "[-0.5, 1.25]" in repr(ranged(-0.5, 1.25))
    assert "[-2..-1(2), 1..2(2)]" in repr(ranged(None, torch.tensor([1.0, 2.0]), CHANNELS))
    off = ranged(None, 1.0)
    off.enabled = False
    assert repr(off).endswith(", off)")


# ---- checkpoints


def test_a_float_checkpoint_loads_strictly_into_an_uncalibrated_model() -> None:
    source, model = float_net(), net()
    assert set(model.state_dict()) == set(source.state_dict())
    model.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(model[2].weight, source[2].weight)


def test_a_calibrated_state_loads_strictly_into_a_fresh_model() -> None:
    source, model = calibrated_net(), net()
    model.load_state_dict(source.state_dict(), strict=True)
    assert set(ranges(source)) == {
        "0._input_quantizer._amax",
        "2._input_quantizer._amin",
        "2._input_quantizer._amax",
        "2._weight_quantizer._amax",
    }
    assert ranges(model).keys() == ranges(source).keys()
    for name, tensor in ranges(source).items():
        assert torch.equal(ranges(model)[name], tensor)
    assert model[2]._weight_quantizer.amax.tolist() == pytest.approx([0.1, 0.2, 0.3])
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(model(x), source(x))


def test_what_was_loaded_is_no_view_of_the_checkpoint() -> None:
    source = calibrated_net()
    model = net()
    model.load_state_dict(source.state_dict())
    source[0]._input_quantizer._amax.fill_(7)
    assert model[0]._input_quantizer.amax.item() == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.tensor(5.0), torch.tensor([0.1, 0.2, 0.3])),
        (torch.tensor([0.1, 0.2, 0.3]), torch.tensor(5.0)),
        (torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2, 0.3])),
    ],
    ids=["tensor to channels", "channels to tensor", "other channels"],
)
def test_a_range_of_another_shape_is_replaced_strictly(before: Tensor, after: Tensor) -> None:
    source, model = TensorQuantizer(CHANNELS), TensorQuantizer(CHANNELS)
    source.set_range(-after, after * 2)
    model.set_range(-before, before)
    model.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(model.state_dict()["_amin"], -after)
    assert torch.equal(model.state_dict()["_amax"], after * 2)


def test_a_missing_range_of_a_calibrated_quantizer_is_reported_strictly() -> None:
    source, model = net(), calibrated_net()
    with pytest.raises(RuntimeError, match=r'Missing key.*"0._input_quantizer._amax"'):
        model.load_state_dict(source.state_dict(), strict=True)
    result = model.load_state_dict(source.state_dict(), strict=False)
    assert set(result.missing_keys) == set(ranges(model))
    assert model[0]._input_quantizer.amax.item() == pytest.approx(1.1)


def test_a_one_sided_state_replaces_a_two_sided_one_whole() -> None:
    source, model = ranged(None, 0.5), ranged(-1.0, 3.0)
    model.load_state_dict(source.state_dict(), strict=True)
    assert (model.amin, model.amax) == (torch.tensor(-0.5), torch.tensor(0.5))


def test_an_unknown_key_beside_the_range_is_reported_strictly() -> None:
    with pytest.raises(RuntimeError, match=r"Unexpected key.*_scale"):
        TensorQuantizer().load_state_dict({"_amax": torch.tensor(1.0), "_scale": torch.tensor(1.0)})


def test_a_range_stored_in_half_is_held_in_float32() -> None:
    model = TensorQuantizer()
    model.load_state_dict({"_amax": torch.tensor(1.5, dtype=torch.float16)})
    assert model.amax is not None
    assert model.amax.dtype == torch.float32
    assert model.amax.item() == 1.5


@pytest.mark.parametrize("convert", ["half", "bfloat16", "double", "to_bf16", "to_pair"])
def test_converting_a_model_leaves_its_ranges_float32_exactly(convert: str) -> None:
    model = calibrated_net()
    before = {name: tensor.clone() for name, tensor in ranges(model).items()}
    {
        "half": model.half,
        "bfloat16": model.bfloat16,
        "double": model.double,
        "to_bf16": lambda: model.to(torch.bfloat16),
        "to_pair": lambda: model.to("cpu", torch.float16),
    }[convert]()
    assert model[0].weight.dtype != torch.float32
    for name, tensor in ranges(model).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def test_moving_a_model_moves_its_ranges_and_an_empty_one_moves_too() -> None:
    model = calibrated_net().to("meta")
    assert {tensor.device.type for tensor in ranges(model).values()} == {"meta"}
    assert net().to("meta")[0]._input_quantizer.amax is None


def pickled(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, through_torch_save])
def test_a_copy_is_whole_and_its_own(copied: Any) -> None:
    model = calibrated_net()
    quantizer = model[2]._input_quantizer
    quantizer.enabled, quantizer.site, quantizer.limits = False, "2.input", (0.0, 6.0)
    twin = copied(model)
    other = twin[2]._input_quantizer
    assert (other.enabled, other.active, other.site) == (False, True, "2.input")
    assert (other.limits, other.spec) == ((0.0, 6.0), quantizer.spec)
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(twin(x), model(x))
    other.set_range(None, 9.0)
    other.enabled = True
    assert quantizer.amax.item() == pytest.approx(2.2)
    assert not quantizer.enabled


# ---- plain ONNX export


def exported(module: nn.Module, x: Tensor) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(module.eval(), (x,), buffer, dynamo=False, opset_version=13)
    return onnx.load_from_string(buffer.getvalue())


def constant_of(graph: onnx.GraphProto, name: str) -> np.ndarray:
    """The value behind a name: of an initializer or of a Constant."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    (node,) = (node for node in graph.node if name in node.output)
    return numpy_helper.to_array(node.attribute[0].t)


def test_plain_export_writes_one_pair_with_the_grid_of_the_quantizer() -> None:
    model = exported(ranged(-0.5, 1.5, UINT8), torch.ones(2, 3))
    assert model.opset_import[0].version == 13
    codes, values = (n for n in model.graph.node if n.op_type != "Constant")
    assert (codes.op_type, values.op_type) == ("QuantizeLinear", "DequantizeLinear")
    assert {op.domain for op in model.graph.node} == {""}
    for node in (codes, values):
        scale, point = (constant_of(model.graph, name) for name in node.input[1:])
        assert scale == pytest.approx(2 / 255)
        assert (point.dtype, point.item()) == (np.uint8, 64)


def test_plain_export_of_channels_writes_their_axis() -> None:
    spec = QuantSpec(keep_axis=1)
    model = exported(ranged(None, torch.tensor([1.27, 2.54, 0.0]), spec), torch.ones(2, 3))
    pair = [node for node in model.graph.node if node.op_type != "Constant"]
    assert [node.attribute[0].i for node in pair] == [1, 1]
    scale = constant_of(model.graph, pair[0].input[1])
    np.testing.assert_allclose(scale, [0.01, 0.02, 1], rtol=1e-6)
    assert constant_of(model.graph, pair[0].input[2]).dtype == np.int8


def test_an_exported_quantizer_that_is_off_leaves_no_trace() -> None:
    quantizer = ranged(None, 1.0)
    quantizer.active = False
    model = exported(nn.Sequential(quantizer, nn.ReLU()), torch.ones(2))
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_plain_export_of_other_widths_is_refused_at_the_site() -> None:
    quantizer = ranged(None, 1.0, QuantSpec(bits=4), site="fc.input")
    with pytest.raises(ExportError) as caught:
        exported(quantizer, torch.ones(2))
    assert str(caught.value) == (
        "int4 symmetric per-tensor has no QuantizeLinear before opset 21, which knows 8 bits\n"
        "  at:  fc.input\n  fix: pass bits=8 where the model shall be exported"
    )


def test_markers_are_emitted_inside_the_block_only_also_after_an_exception() -> None:
    quantizer, x = ranged(None, 1.0, site="fc.input"), torch.ones(2)
    with emit_markers() as calls:
        buffer = io.BytesIO()
        torch.onnx.export(
            quantizer.eval(),
            (x,),
            buffer,
            dynamo=False,
            opset_version=13,
            custom_opsets={"qdq": 1},
        )
    assert [call.site for call in calls] == ["fc.input"]
    assert torch.equal(calls[0].x, x)
    assert calls[0].grid is not None
    assert calls[0].scale == pytest.approx(1 / 127)
    (marker,) = onnx.load_from_string(buffer.getvalue()).graph.node
    assert (marker.domain, marker.op_type) == ("qdq", "Site")
    assert marker.attribute[0].s == b"fc.input"

    with pytest.raises(ZeroDivisionError), emit_markers():
        raise ZeroDivisionError
    assert {n.domain for n in exported(quantizer, x).graph.node} == {""}
