"""GPTQ's rounding against the greedy procedure that it factorizes; the codes that it leaves."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from repair_nets import LAYERS, batches, calibrated, float_net
from torch import Tensor, nn

from qdq.errors import CalibrationError, InputError, StepError
from qdq.export.writing import export_onnx
from qdq.insertion.checkpoints import load, save
from qdq.numerics.affine import fake_quantize, quantize
from qdq.repair import rounding
from qdq.repair.rounding import DAMPING, fed_forward, round_weights
from qdq.spec import QuantSpec

Doubles = NDArray[np.float64]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def codes(layer: Any) -> Tensor:
    return quantize(layer.weight.detach(), layer.weight_grid())


def greedy(weight: Doubles, products: Doubles) -> Doubles:
    """One column after the other; those left take the values that are then best, solved anew.

    Hassibi and Stork 1993 for quantization, as in Frantar et al. 2022, eq. 2.
    """
    hessian = products + DAMPING * products.diagonal().mean() * np.eye(len(products))
    found, left = np.empty_like(weight), weight.copy()
    for column in range(weight.shape[1]):
        found[:, column] = np.rint(left[:, column])
        error = left[:, column] - found[:, column]
        after = slice(column + 1, None)
        pull = np.linalg.solve(hessian[after, after], hessian[after, column])
        left[:, after] += np.outer(error, pull)
    return found


@given(seed=st.integers(0, 999), columns=st.integers(1, 9), block=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_feeding_forward_is_the_greedy_procedure(seed: int, columns: int, block: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(2, 30, columns)) @ random.normal(size=(2, columns, columns))
    weight, products = random.normal(size=(2, 3, columns)) * 4, np.swapaxes(x, 1, 2) @ x
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "BLOCK", block)
        found = fed_forward(
            torch.from_numpy(weight), torch.from_numpy(products), lambda w, _: w.round()
        )
    wanted = np.stack([greedy(w, h) for w, h in zip(weight, products, strict=True)])
    assert np.array_equal(found.numpy(), wanted)


def test_columns_that_are_always_zero_are_rounded_to_nearest() -> None:
    weight = torch.tensor([[[0.4, 1.6, -2.3]]])
    found = fed_forward(weight, torch.zeros(1, 3, 3), lambda w, _: w.round())
    assert torch.equal(found, weight.round())


def error_of(model: nn.Module, name: str) -> float:
    """Share of a float layer's output power that its present weight changes, x quantized."""
    layer: Any = copy.deepcopy(float_net().get_submodule(name))
    quantized: Any = model.get_submodule(name)
    inputs: list[Tensor] = []
    net = float_net()
    net.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        for batch in batches():
            net(batch)
        layer.bias = None
        x = torch.cat([fake_quantize(each, quantized._input_quantizer.grid()) for each in inputs])
        wanted = layer(x)
        layer.weight.data = fake_quantize(quantized.weight, quantized.weight_grid())
        return float((layer(x) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("name", LAYERS)
def test_every_layers_output_changes_less_than_with_nearest_rounding(name: str) -> None:
    nearest, model = calibrated(), calibrated()
    rows = {row.layer: row for row in round_weights(model, batches(), progress=False)}
    assert error_of(model, name) < 0.9 * error_of(nearest, name)
    row, decibels = rows[name], [-10 * np.log10(error_of(m, name)) for m in (nearest, model)]
    # Of a transposed convolution the patches are those of the smallest output: here of all.
    assert (row.before_db, row.after_db) == pytest.approx(tuple(decibels), abs=0.05)


def test_scales_stay_and_every_weight_lies_on_its_grid() -> None:
    model, before = calibrated(), calibrated()
    round_weights(model, batches(), progress=False)
    for name in LAYERS:
        layer: Any = model.get_submodule(name)
        grid, old = layer.weight_grid(), before.get_submodule(name).weight_grid()  # type: ignore[operator]
        assert torch.equal(grid.scale, old.scale)
        on_grid = fake_quantize(layer.weight.detach(), grid)
        torch.testing.assert_close(layer.weight.detach(), on_grid, rtol=1e-6, atol=0)
        assert not torch.equal(codes(layer), codes(before.get_submodule(name)))


def test_a_weight_moves_by_a_few_steps_at_most() -> None:
    model, before = calibrated(), calibrated()
    round_weights(model, batches(), progress=False)
    for name in LAYERS:
        moved = codes(model.get_submodule(name)) - codes(before.get_submodule(name))
        assert 1 <= moved.abs().max() <= 6


def test_the_exported_file_holds_the_chosen_codes(tmp_path: Path) -> None:
    model = calibrated("onnxruntime")
    round_weights(model, batches(), progress=False)
    export_onnx(model, batches()[0], tmp_path / "m.onnx")
    stored = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer]
    for name in ("stem", "depthwise", "plain", "head"):
        wanted = codes(model.get_submodule(name)).numpy()
        fitting = (wanted, wanted.T) if wanted.ndim == 2 else (wanted,)
        assert any(
            each.dtype == np.int8 and any(np.array_equal(each, one) for one in fitting)
            for each in stored
        ), name


def test_a_saved_model_loads_with_the_same_codes(tmp_path: Path) -> None:
    model, fresh = calibrated(), float_net()
    round_weights(model, batches(), progress=False)
    save(model, tmp_path / "m.safetensors")
    load(fresh, tmp_path / "m.safetensors")
    for name in LAYERS:
        assert torch.equal(codes(fresh.get_submodule(name)), codes(model.get_submodule(name)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_hold_the_codes_too(dtype: torch.dtype) -> None:
    narrow, wide = calibrated().to(dtype), calibrated().to(dtype).to(torch.float32)
    data = [each.to(dtype) for each in batches()]
    round_weights(narrow, data, progress=False)
    round_weights(wide, [each.float() for each in data], progress=False)
    assert narrow.stem.weight.dtype == dtype
    assert torch.equal(codes(narrow.stem), codes(wide.stem))  # the first layer: equal inputs
    assert not torch.equal(codes(narrow.stem), codes(calibrated().stem))


def test_rounding_again_changes_nothing() -> None:
    model = calibrated()
    round_weights(model, batches(), progress=False)
    before = state(model)
    rows = round_weights(model, batches(), progress=False)
    assert all(torch.equal(each, before[name]) for name, each in state(model).items())
    assert all(row.after_db == row.before_db > 100 for row in rows)


@pytest.mark.parametrize(
    "spec",
    [
        QuantSpec(bits=4, keep_axis=0),
        QuantSpec(bits=4),
        QuantSpec(bits=4, keep_axis=1),
        QuantSpec(bits=4, signed=False, symmetric=False, keep_axis=0),
    ],
    ids=str,
)
def test_any_grid_of_the_weight_will_do(spec: QuantSpec) -> None:
    nearest = calibrated()
    nearest.stem._weight_quantizer.spec = spec  # type: ignore[union-attr]
    model = copy.deepcopy(nearest)
    round_weights(model, batches(), progress=False)
    grids = [each.stem.weight_grid() for each in (model, nearest)]  # type: ignore[operator]
    assert torch.equal(grids[0].scale, grids[1].scale)
    assert torch.equal(grids[0].zero_point, grids[1].zero_point)
    assert error_of(model, "stem") < 0.9 * error_of(nearest, "stem")


def test_a_layer_too_wide_is_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    nearest, model = calibrated(), calibrated()
    monkeypatch.setattr(rounding, "WIDEST", 6)
    round_weights(model, batches(), progress=False)
    assert error_of(model, "stem") < error_of(nearest, "stem")  # 18 columns: three parts
    whole = calibrated()
    monkeypatch.undo()
    round_weights(whole, batches(), progress=False)
    assert error_of(whole, "stem") < error_of(model, "stem")


@pytest.mark.parametrize("make", [list, iter])
def test_several_passes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    once, several = calibrated(), calibrated()
    rows = round_weights(once, batches(), progress=False)
    monkeypatch.setattr(rounding, "MOST_BYTES", 1)
    again = round_weights(several, make(batches(5)), batches=3, progress=False)
    assert [row.layer for row in again] == [row.layer for row in rows] == list(LAYERS)
    assert all(torch.equal(each, state(once)[name]) for name, each in state(several).items())


def test_a_sample_of_the_patches_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "MOST_ROWS", 50)
    models = [calibrated(), calibrated()]
    for model in models:
        round_weights(model, batches(), progress=False)
    first, second = (state(model) for model in models)
    assert all(torch.equal(each, second[name]) for name, each in first.items())
    assert error_of(models[0], "stem") < error_of(calibrated(), "stem")


def test_nan_inside_the_model_is_named_and_nothing_is_changed() -> None:
    model = calibrated()
    model.head.register_forward_pre_hook(lambda _, args: (args[0] * torch.nan,))
    before = state(model)
    with pytest.raises(CalibrationError) as caught:
        round_weights(model, batches(), progress=False)
    assert str(caught.value) == (
        "the inputs of this layer hold NaN or infinity\n  at:  head\n"
        "  fix: the float model is broken on this data: look at the layers before this one"
    )
    assert all(torch.equal(each, before[name]) for name, each in state(model).items())


def test_it_needs_eval_mode_and_batches() -> None:
    with pytest.raises(StepError, match="round_weights needs"):
        round_weights(calibrated().train(), batches(), progress=False)
    with pytest.raises(InputError, match="the data holds no batch"):
        round_weights(calibrated(), [], progress=False)
