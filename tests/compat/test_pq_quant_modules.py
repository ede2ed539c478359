"""initialize, deactivate and enable_onnx_export: what they replace, and that they put it back."""

import types
from typing import Any

import pytest
import torch
from pq_nets import built_under, float_net
from torch import nn

import qdq.compat.pytorch_quantization as pq
from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization import quant_modules

BEFORE = dict(vars(nn))
REPLACED = (
    *(f"{kind}{rank}d" for kind in ("Conv", "ConvTranspose") for rank in (1, 2, 3)),
    *(f"{kind}{rank}d" for kind in ("AvgPool", "AdaptiveAvgPool") for rank in (1, 2, 3)),
    "Linear",
    "LSTM",
    "LSTMCell",
)


@pytest.fixture(autouse=True)
def _torch_is_as_it_was() -> Any:
    yield
    pq.deactivate()
    assert all(vars(nn)[name] is found for name, found in BEFORE.items())


def changed() -> set[str]:
    return {name for name, found in BEFORE.items() if getattr(nn, name) is not found}


def test_initialize_replaces_the_fifteen_names_and_deactivate_puts_them_back() -> None:
    pq.initialize()
    assert changed() == set(REPLACED)
    assert all(getattr(nn, name) is getattr(quant_nn, name) for name in REPLACED)
    pq.deactivate()
    assert changed() == set()


def test_models_built_in_between_are_quantized_and_compute_with_the_same_weights() -> None:
    model = built_under(pq.initialize, pq.deactivate)
    kinds = [type(each).__name__ for each in model]
    assert kinds[::2] == ["QuantConv2d", "QuantConvTranspose2d", "Flatten"]
    floating = float_net()
    assert type(floating[0]) is nn.Conv2d
    model.load_state_dict(floating.state_dict())
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), floating(x), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_initialize_any_number_of_times_needs_one_deactivate(times: int) -> None:
    for _ in range(times):
        pq.initialize()
    pq.deactivate()
    assert changed() == set()
    pq.deactivate()
    assert changed() == set()


def test_the_last_initialize_is_the_one_that_counts() -> None:
    holder = types.ModuleType("holder")
    holder.Layer = nn.Linear  # type: ignore[attr-defined]
    pq.initialize(["Linear"], [(holder, "Layer", quant_nn.QuantLinear)])
    assert changed() == set(REPLACED) - {"Linear"}
    assert holder.Layer is quant_nn.QuantLinear
    pq.initialize(["Conv2d"])
    assert changed() == set(REPLACED) - {"Conv2d"}
    assert holder.Layer is BEFORE["Linear"]


def test_a_custom_module_is_replaced_even_where_its_name_is_left_alone() -> None:
    pq.initialize(["Linear", "Conv2d"], [(nn, "Linear", quant_nn.QuantLinear)])
    assert nn.Linear is quant_nn.QuantLinear
    assert nn.Conv2d is BEFORE["Conv2d"]
    pq.initialize(custom_quant_modules=[(nn, "Linear", nn.Identity)])
    assert nn.Linear is nn.Identity


def test_a_name_that_does_not_exist_replaces_nothing() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        pq.initialize(custom_quant_modules=[(nn, "Nothing", nn.Identity)])
    assert changed() == set()


def test_a_replacement_that_fails_half_way_puts_back_the_rest() -> None:
    class Sealed:
        Layer = nn.Linear

        def __setattr__(self, name: str, value: object) -> None:
            raise PermissionError(name)

    with pytest.raises(PermissionError):
        pq.initialize(custom_quant_modules=[(Sealed(), "Layer", nn.Identity)])
    assert changed() == set()


def test_the_default_map_is_a_list_that_users_change() -> None:
    entries = quant_modules._DEFAULT_QUANT_MAP
    assert [entry.mod_name for entry in entries] == [
        *(f"{kind}{rank}d" for kind in ("Conv", "ConvTranspose") for rank in (1, 2, 3)),
        *("Linear", "LSTM", "LSTMCell"),
        *(f"{kind}{rank}d" for kind in ("AvgPool", "AdaptiveAvgPool") for rank in (1, 2, 3)),
    ]
    added = quant_modules._quant_entry(nn, "MaxPool2d", quant_nn.QuantMaxPool2d)
    entries.append(added)
    try:
        pq.initialize()
        assert nn.MaxPool2d is quant_nn.QuantMaxPool2d
    finally:
        entries.remove(added)
    pq.initialize()
    assert nn.MaxPool2d is BEFORE["MaxPool2d"]


def test_a_helper_of_ones_own_works_by_the_same_steps() -> None:
    helper = quant_modules.QuantModuleReplacementHelper()
    assert helper.default_quant_map is quant_modules._DEFAULT_QUANT_MAP
    helper.prepare_state(["LSTM"])
    assert (len(helper.quant_map), changed()) == (14, set())
    helper.apply_quant_modules()
    assert {entry.mod_name for entry in helper.orginal_func_map} == changed()
    helper.restore_float_modules()
    assert (helper.orginal_func_map, changed()) == (set(), set())


def test_the_export_flag_is_what_it_was_after_an_exception_and_after_nesting() -> None:
    kind = quant_nn.TensorQuantizer

    def export_that_fails() -> None:
        with pq.enable_onnx_export():
            assert kind._enable_onnx_export
            raise KeyError

    with pytest.raises(KeyError):
        export_that_fails()
    assert not kind._enable_onnx_export
    with pq.enable_onnx_export():
        with pq.enable_onnx_export():
            pass
        assert kind._enable_onnx_export
    assert not kind._enable_onnx_export


def test_inside_enable_onnx_export_an_uncalibrated_quantizer_is_an_error() -> None:
    quantizer = quant_nn.TensorQuantizer()
    with pq.enable_onnx_export():
        with pytest.raises(AssertionError, match=r"^Quantizer has not been calibrated\."):
            quantizer(torch.ones(2))
        quantizer.amax = 1.0
        assert quantizer(torch.ones(1)) == 1.0
        assert quant_nn.TensorQuantizer(disabled=True)(torch.ones(1)) == 1.0
