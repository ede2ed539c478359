"""State dicts: names and shapes of old, into fresh models, into float ones, and from them."""

from typing import Any

import pytest
import safetensors.torch
import torch
from pq_nets import calibrated, float_net, images, quant_net
from torch import nn

from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization.tensor_quant import QuantDescriptor

SHAPES = {
    "0._input_quantizer._amax": (),
    "0._weight_quantizer._amax": (8, 1, 1, 1),
    "2._input_quantizer._amax": (),
    "2._weight_quantizer._amax": (1, 4, 1, 1),
    "3._input_quantizer._amax": (),
    "5._input_quantizer._amax": (),
    "5._weight_quantizer._amax": (5, 1),
}


def ranges(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if k.endswith("_amax")}


def test_ranges_have_the_names_and_shapes_of_old() -> None:
    model = quant_net()
    assert list(model.state_dict()) == list(float_net().state_dict())
    assert ranges(calibrated(model, images())) == SHAPES


def test_a_calibrated_checkpoint_fills_a_fresh_model(tmp_path: Any) -> None:
    x = images()
    model = calibrated(quant_net(), x)
    for extension, write, read in (
        ("pt", torch.save, lambda path: torch.load(path, weights_only=True)),
        ("safetensors", safetensors.torch.save_file, safetensors.torch.load_file),
    ):
        path = tmp_path / f"model.{extension}"
        write(model.state_dict(), path)
        fresh = quant_net()
        assert str(fresh.load_state_dict(read(path))) == "<All keys matched successfully>"
        assert torch.equal(fresh(x), model(x))
        assert ranges(fresh) == SHAPES


def test_float_checkpoints_fit_both_ways_while_nothing_is_calibrated() -> None:
    quant_net().load_state_dict(float_net().state_dict(), strict=True)
    float_net().load_state_dict(quant_net().state_dict(), strict=True)


def test_a_range_that_the_checkpoint_lacks_is_a_missing_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = calibrated(quant_net(), images())
    with pytest.raises(RuntimeError, match=r"Missing key.*0\._input_quantizer\._amax"):
        model.load_state_dict(float_net().state_dict())
    assert "the checkpoint has no 0._input_quantizer._amax" in caplog.text


def test_a_range_is_overwritten_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    old, new = (quant_nn.TensorQuantizer(QuantDescriptor(amax=each)) for each in (1.0, 2.0))
    old.load_state_dict(new.state_dict())
    assert old.amax == 2.0
    assert "_amax is overwritten" in caplog.text


def test_a_range_of_another_shape_is_taken_as_it_is() -> None:
    old = quant_nn.TensorQuantizer(QuantDescriptor(amax=1.0))
    new = quant_nn.TensorQuantizer(QuantDescriptor(amax=[[1.0], [2.0]], axis=0))
    old.load_state_dict(new.state_dict())
    assert old._amax.tolist() == [[1.0], [2.0]]


def test_scales_and_learned_limits_are_kept_too() -> None:
    model = quant_nn.TensorQuantizer(QuantDescriptor(learn_amax=True, amax=3.0))
    model.pre_quant_scale = [0.5, 2.0]
    state = model.state_dict()
    assert set(state) == {
        "_amax",
        "_pre_quant_scale",
        "clip.clip_value_min",
        "clip.clip_value_max",
    }
    assert state["clip.clip_value_min"].shape == ()
    fresh = quant_nn.TensorQuantizer(QuantDescriptor(learn_amax=True))
    fresh.load_state_dict(state)
    assert fresh.pre_quant_scale.tolist() == [0.5, 2.0]
    assert fresh.clip.clip_value_max == 3.0


def test_a_half_checkpoint_is_computed_with_in_fp32() -> None:
    model = quant_nn.TensorQuantizer()
    model.load_state_dict({"_amax": torch.tensor(1.5, dtype=torch.float16)})
    assert model._amax.dtype == torch.float32
    assert model.amax == 1.5


def test_an_lstms_ranges_are_numbered_by_layer_and_direction() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5)
    lstm = calibrated(quant_nn.QuantLSTM(5, 4, bidirectional=True).eval(), x)
    assert ranges(lstm) == {
        "_input_quantizers.0._amax": (),
        "_input_quantizers.1._amax": (),
        "_weight_quantizers.0._amax": (16, 1),
        "_weight_quantizers.1._amax": (16, 1),
    }
    fresh = quant_nn.QuantLSTM(5, 4, bidirectional=True).eval()
    fresh.load_state_dict(lstm.state_dict())
    assert torch.equal(fresh(x)[0], lstm(x)[0])
    nn.LSTM(5, 4, bidirectional=True).load_state_dict(
        quant_nn.QuantLSTM(5, 4, bidirectional=True).state_dict()
    )


def test_ranges_move_with_the_model() -> None:
    model = calibrated(quant_net(), images()).to("meta")
    assert {str(each.device) for each in model.buffers()} == {"meta"}
    learning = quant_nn.TensorQuantizer(QuantDescriptor(learn_amax=True, amax=1.0)).to("meta")
    assert {str(each.device) for each in learning.parameters()} == {"meta"}
