"""QuantLSTM and QuantGRU against torch's float layers and, rounded, against numpy."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_references import (
    HIDDEN,
    IN,
    TWINS,
    furthest,
    normal,
    over_time,
    passing,
    ranged,
    tensors,
    twin,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from qdq.errors import CalibrationError, InputError, SpecError
from qdq.nn import QuantLSTM
from qdq.nn.twins import why_float
from qdq.spec import QuantSpec

BOTH = pytest.mark.parametrize("float_class", [nn.LSTM, nn.GRU])
FORMS = [
    {"num_layers": layers, "bidirectional": two, "batch_first": first, "bias": bias}
    for layers, two, first, bias in itertools.product((1, 3), *[(False, True)] * 3)
]


def padded() -> Tensor:
    return normal(5, 6, IN)


def packed(lengths: tuple[int, ...] = (2, 6, 1), *, is_sorted: bool = False) -> Any:
    return pack_sequence([normal(n, IN, seed=n) for n in lengths], enforce_sorted=is_sorted)


def state_of(float_class: Any, *shape: int) -> Any:
    h, c = normal(*shape, seed=2), normal(*shape, seed=3)
    return (h, c) if float_class is nn.LSTM else h


# ---- as torch computes


@BOTH
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_with_quantizers_that_pass_it_is_the_float_layer(
    float_class: Any, form: dict[str, Any]
) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, **form)
    passing(layer)
    for x in (padded(), padded()[0], packed(), packed((4, 2, 2), is_sorted=True)):
        assert furthest(layer(x), plain(x)) <= 1e-6


@BOTH
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_begins_with_the_state_it_is_given(float_class: Any, form: dict[str, Any]) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, **form)
    passing(layer)
    runs = form["num_layers"] * (2 if form["bidirectional"] else 1)
    rows = 5 if form["batch_first"] else 6
    for x, shape in (
        (padded(), (runs, rows, HIDDEN)),
        (padded()[0], (runs, HIDDEN)),
        (packed(), (runs, 3, HIDDEN)),
        (packed((4, 2), is_sorted=True), (runs, 2, HIDDEN)),
    ):
        hx = state_of(float_class, *shape)
        assert furthest(layer(x, hx), plain(x, hx)) <= 1e-6


@BOTH
def test_a_packed_result_knows_its_order_as_torchs_does(float_class: Any) -> None:
    plain, layer = twin(float_class)
    for x in (packed(), packed((4, 2), is_sorted=True)):
        (found, _), (wanted, _) = passing(layer)(x), plain(x)
        assert type(found) is type(wanted)
        for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(found, name), getattr(wanted, name)
            assert (a is None and b is None) or torch.equal(a, b)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    float_class=st.sampled_from([nn.LSTM, nn.GRU]),
)
def test_a_packed_batch_is_its_sequences_one_by_one(lengths: list[int], float_class: Any) -> None:
    _, layer = twin(float_class, IN, HIDDEN, 2, bidirectional=True, dtype=torch.float64)
    ranged(layer, 2.0, 0.9)
    sequences = [normal(n, IN, seed=k).double() for k, n in enumerate(lengths)]
    y, last = layer(pack_sequence(sequences, enforce_sorted=False))
    rows, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
    for k, sequence in enumerate(sequences):
        alone, end = layer(sequence)
        torch.testing.assert_close(rows[: len(sequence), k], alone)
        ended = [each[:, k] for each in tensors(last)]
        assert furthest(ended, end) < 1e-9


@BOTH
def test_while_nothing_is_quantized_it_is_the_float_layer_bit_for_bit(float_class: Any) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, 2, bidirectional=True)
    for quantizer in layer._weight_quantizers:
        quantizer.enabled = False
    for x in (padded(), packed()):
        assert furthest(layer(x), plain(x)) == 0.0


@BOTH
def test_dropout_acts_between_layers_and_in_training_only(float_class: Any) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, 2, dropout=1.0)  # all of it: no chance involved
    passing(layer)
    whole = plain.eval()(padded())
    assert furthest(layer.eval()(padded()), whole) <= 1e-6
    dropped = plain.train()(padded())
    assert furthest(layer.train()(padded()), dropped) <= 1e-6
    assert furthest(dropped, whole) > 1e-3


@BOTH
@pytest.mark.parametrize("shape", [(5, 6, IN + 1), (5,), (2, 5, 6, IN)])
def test_an_input_that_does_not_fit_is_refused(float_class: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"input must have|input.size\(-1\) must be equal"):
        passing(twin(float_class)[1])(normal(*shape))


@BOTH
@pytest.mark.parametrize("shape", [(1, 5, HIDDEN), (1, 1, HIDDEN), (2, 6, HIDDEN), (6, HIDDEN)])
def test_a_state_that_does_not_fit_is_refused(float_class: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="Expected hidden"):
        passing(twin(float_class)[1])(padded(), state_of(float_class, *shape))


@BOTH
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_sequence_without_steps_is_refused(float_class: Any, batch_first: bool) -> None:
    layer = passing(twin(float_class, IN, HIDDEN, batch_first=batch_first)[1])
    layer._input_quantizers[0].site = "encoder.rnn.input_0"
    shape = (2, 0, IN) if batch_first else (0, 2, IN)
    with pytest.raises(InputError) as caught:
        layer(torch.zeros(shape))
    assert str(caught.value) == (
        f"a sequence of shape {shape} has no steps\n"
        "  at:  encoder.rnn\n"
        "  fix: leave empty sequences out"
    )


# ---- as integers compute


@BOTH
@pytest.mark.parametrize("two", [False, True])
def test_it_computes_on_rounded_operands(float_class: Any, two: bool) -> None:
    _, layer = twin(float_class, IN, HIDDEN, 2, bidirectional=two, dtype=torch.float64)
    ends = [1.7, 0.5, 1.5, 0.4, 0.8, 0.6, 0.7, 0.3]
    ranged(layer, *ends)
    y, last = layer(padded().double())
    x, states = padded().double().numpy(), []
    runs = iter(zip(ends[::2], ends[1::2], strict=True))
    for level in range(2):
        suffixes = [f"_l{level}", f"_l{level}_reverse"][: 1 + two]
        made = [over_time(float_class, layer, each, x, *next(runs)) for each in suffixes]
        x = np.concatenate([each for each, _ in made], axis=2)
        states += [state for _, state in made]
    np.testing.assert_allclose(y.detach(), x, atol=1e-6)
    for k, found in enumerate(tensors(last)):
        np.testing.assert_allclose(
            found.detach(), np.stack([each[k] for each in states]), atol=1e-6
        )


@BOTH
def test_rounding_is_felt(float_class: Any) -> None:
    plain, layer = twin(float_class)
    assert 1e-5 < furthest(ranged(layer, 3.0, 1.0)(padded()), plain(padded())) < 0.1


@BOTH
def test_while_one_weight_is_off_only_its_own_product_is_float(float_class: Any) -> None:
    plain, layer = twin(float_class)
    ranged(layer, 2.0, 1.0)._weight_quantizers[0].enabled = False
    with torch.no_grad():
        plain.weight_hh_l0.copy_(layer._weight_quantizers[1](layer.weight_hh_l0))
    passed = copy.deepcopy(layer)
    passed._input_quantizers[1].enabled = False
    assert furthest(passed(padded()), plain(padded())) <= 1e-6
    assert furthest(layer(padded()), plain(padded())) > 1e-5


@BOTH
def test_another_grid_is_taken_from_the_specs(float_class: Any) -> None:
    inputs, weights = QuantSpec(bits=4), QuantSpec(bits=3)
    layer = TWINS[float_class](IN, HIDDEN, 2, input_spec=inputs, weight_spec=weights)
    assert {quantizer.spec for quantizer in layer._input_quantizers} == {inputs}
    assert {quantizer.spec for quantizer in layer._weight_quantizers} == {weights}
    plain = TWINS[float_class](IN, HIDDEN)
    assert plain._weight_quantizers[0].spec == QuantSpec(narrow=True, keep_axis=0)


@BOTH
def test_the_range_of_a_dynamic_input_is_that_of_each_tensor(float_class: Any) -> None:
    _, layer = twin(float_class)
    x = padded()[:1]  # one step from a zero state: h is 0, whatever its range
    for quantizer in layer._input_quantizers:
        quantizer.dynamic = True
    dynamic = layer(x)
    for quantizer in layer._input_quantizers:
        quantizer.dynamic = False
    fixed = ranged(layer, float(x.abs().max()), 1.0)(x)
    assert furthest(dynamic, fixed) == 0.0


@BOTH
def test_without_a_range_it_names_the_site_that_lacks_one(float_class: Any) -> None:
    _, layer = twin(float_class)
    layer._input_quantizers[0].set_range(None, 1.0)
    layer._input_quantizers[1].site = "rnn.input_1"
    with pytest.raises(CalibrationError, match=r"no range yet\n  at:  rnn\.input_1\n  fix: run"):
        layer(padded())


# ---- what is not supported


def test_a_projection_is_refused_when_built_and_when_swapped() -> None:
    with pytest.raises(SpecError) as caught:
        QuantLSTM(IN, HIDDEN, proj_size=2)
    assert str(caught.value) == (
        "a QuantLSTM cannot quantize this: proj_size=2 is a third product in every step, which "
        "has no sites\n"
        "  fix: leave the layer float with ignore=, or build it with proj_size=0"
    )
    layer = nn.LSTM(IN, HIDDEN, proj_size=2)
    assert why_float(layer).startswith("proj_size=2 is a third product")
    layer.__class__ = QuantLSTM
    with pytest.raises(SpecError, match="proj_size=2"):
        layer.add_quantizers()
    assert why_float(nn.LSTM(IN, HIDDEN)) == ""
