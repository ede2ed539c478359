"""QuantLSTMCell and QuantGRUCell against torch's float cells and, rounded, against numpy."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from recurrent_references import (
    GATES,
    HIDDEN,
    IN,
    furthest,
    normal,
    passing,
    ranged,
    rounded,
    rounded_rows,
    tensors,
)
from torch import Tensor, nn

from qdq.errors import CalibrationError, InputError
from qdq.insertion.switches import quantizers
from qdq.nn import QuantGRUCell, QuantLSTMCell
from qdq.nn.twins import TWINS

CELLS: dict[Any, Any] = {nn.LSTMCell: QuantLSTMCell, nn.GRUCell: QuantGRUCell}
LAYERS = {nn.LSTMCell: nn.LSTM, nn.GRUCell: nn.GRU}
BOTH = pytest.mark.parametrize("float_class", list(CELLS))


def twin(float_class: Any, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    plain = float_class(IN, HIDDEN, **options)
    cell = copy.deepcopy(plain)
    cell.__class__ = CELLS[float_class]
    cell.add_quantizers()
    return plain, cell


def x() -> Tensor:
    return normal(6, IN)


def state_of(float_class: Any, *shape: int) -> Any:
    h, c = normal(*shape, seed=2), normal(*shape, seed=3)
    return (h, c) if float_class is nn.LSTMCell else h


@BOTH
def test_it_is_the_registered_twin_of_its_float_class(float_class: Any) -> None:
    assert TWINS[float_class] is CELLS[float_class]
    assert (
        CELLS[float_class].kind == {nn.LSTMCell: "lstm_cell", nn.GRUCell: "gru_cell"}[float_class]
    )


@BOTH
@pytest.mark.parametrize("bias", [False, True])
def test_with_quantizers_that_pass_it_is_the_float_cell(float_class: Any, bias: bool) -> None:
    plain, cell = twin(float_class, bias=bias)
    passing(cell)
    hx = state_of(float_class, 6, HIDDEN)
    one = tuple(each[0] for each in hx) if isinstance(hx, tuple) else hx[0]
    assert furthest(cell(x()), plain(x())) <= 1e-6
    assert furthest(cell(x(), hx), plain(x(), hx)) <= 1e-6
    assert furthest(cell(x()[0]), plain(x()[0])) <= 1e-6
    assert furthest(cell(x()[0], one), plain(x()[0], one)) <= 1e-6


@BOTH
def test_while_nothing_is_quantized_it_is_the_float_cell_bit_for_bit(float_class: Any) -> None:
    plain, cell = twin(float_class)
    for quantizer in cell._weight_quantizers:
        quantizer.active = False
    assert furthest(cell(x()), plain(x())) == 0.0


@BOTH
def test_it_computes_on_rounded_operands(float_class: Any) -> None:
    _, cell = twin(float_class, dtype=torch.float64)
    ranged(cell, 1.5, 0.8)
    hx = state_of(float_class, 6, HIDDEN)
    wide = tuple(each.double() for each in hx) if isinstance(hx, tuple) else hx.double()
    gates, _ = GATES[LAYERS[float_class]]
    state = [each.numpy() for each in tensors(wide)]
    from_x = rounded(x().double().numpy(), 1.5) @ rounded_rows(cell.weight_ih).T
    from_h = rounded(state[0], 0.8) @ rounded_rows(cell.weight_hh).T
    wanted = gates(
        from_x + cell.bias_ih.detach().numpy(), from_h + cell.bias_hh.detach().numpy(), state
    )
    for found, want in zip(tensors(cell(x().double(), wide)), wanted, strict=True):
        np.testing.assert_allclose(found.detach(), want, atol=1e-6)


@BOTH
def test_called_in_a_loop_it_is_the_quantized_layer(float_class: Any) -> None:
    _, cell = twin(float_class)
    torch.manual_seed(0)
    layer = LAYERS[float_class](IN, HIDDEN)
    layer.__class__ = TWINS[type(layer)]
    layer.add_quantizers()
    layer.load_state_dict({f"{name}_l0": each for name, each in cell.state_dict().items()})
    ranged(layer, 1.5, 0.8)
    ranged(cell, 1.5, 0.8)
    sequence, state = normal(4, 6, IN, seed=5), None
    for step in sequence:
        state = cell(step, state)
    _, last = layer(sequence)
    assert furthest([each[None] for each in tensors(state)], last) <= 1e-6


@BOTH
@pytest.mark.parametrize("shape", [(1, HIDDEN), (5, HIDDEN), (6, HIDDEN + 1), (HIDDEN,)])
def test_a_state_that_would_only_broadcast_is_refused(
    float_class: Any, shape: tuple[int, ...]
) -> None:
    _, cell = twin(float_class)
    passing(cell)
    cell._input_quantizers[0].site = "decoder.cell.input_0"
    count = 2 if float_class is nn.LSTMCell else 1
    with pytest.raises(InputError) as caught:
        cell(x(), state_of(float_class, *shape))
    assert str(caught.value) == (
        f"input of shape (6, {IN}) and a state of {[shape] * count} do not fit this cell\n"
        "  at:  decoder.cell\n"
        f"  fix: pass (N, {IN}) with {count} of (N, {HIDDEN}), or both without N"
    )


@BOTH
def test_a_sequence_is_no_input_of_a_cell(float_class: Any) -> None:
    with pytest.raises(InputError, match=r"input of shape \(2, 6, 3\)"):
        passing(twin(float_class)[1])(normal(2, 6, IN))


@BOTH
def test_without_a_range_it_names_the_site_that_lacks_one(float_class: Any) -> None:
    _, cell = twin(float_class)
    model = nn.ModuleDict({"cell": cell})
    assert set(quantizers(model)) == {
        "cell.input_0",
        "cell.input_1",
        "cell.weight_0",
        "cell.weight_1",
    }
    cell._input_quantizers[0].set_range(None, 1.0)
    with pytest.raises(CalibrationError, match=r"no range yet\n  at:  cell\.input_1"):
        cell(x())


@BOTH
def test_its_state_dict_fits_the_float_cell_and_back(float_class: Any) -> None:
    plain, cell = twin(float_class)
    assert list(cell.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(cell.state_dict(), strict=True)
    fresh = CELLS[float_class](IN, HIDDEN)
    fresh.load_state_dict(ranged(cell, 1.5, 0.8).state_dict(), strict=True)
    assert furthest(fresh(x()), cell(x())) == 0.0


@BOTH
def test_gradients_reach_every_parameter(float_class: Any) -> None:
    _, cell = twin(float_class)
    result = ranged(cell, 1.5, 0.8)(x(), state_of(float_class, 6, HIDDEN))
    sum((each**2).sum() for each in tensors(result)).backward()
    assert all(bool((each.grad != 0).any()) for each in cell.parameters())
