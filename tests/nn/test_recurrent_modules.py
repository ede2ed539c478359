"""QuantLSTM and QuantGRU as modules: class swap, state, copies, gradients, observers, sites."""

import copy
from typing import Any

import pytest
import torch
from recurrent_references import (
    HIDDEN,
    IN,
    TWINS,
    furthest,
    normal,
    passing,
    ranged,
    rounded_rows,
    tensors,
    twin,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from qdq.insertion.switches import quantizers
from qdq.nn import TensorQuantizer
from qdq.nn.twins import TWINS as REGISTERED

BOTH = pytest.mark.parametrize("float_class", [nn.LSTM, nn.GRU])


def x() -> Tensor:
    return normal(5, 6, IN)


@BOTH
def test_it_is_the_registered_twin_of_its_float_class(float_class: Any) -> None:
    assert REGISTERED[float_class] is TWINS[float_class]
    assert issubclass(TWINS[float_class], float_class)
    assert TWINS[float_class].kind == float_class.__name__.lower()


@BOTH
def test_a_swapped_layer_keeps_its_parameters_and_computes_as_one_that_was_built(
    float_class: Any,
) -> None:
    layer = float_class(IN, HIDDEN, 2, bidirectional=True)
    before = dict(layer.named_parameters())
    layer.__class__ = TWINS[float_class]
    layer.add_quantizers()
    assert all(after is before[name] for name, after in layer.named_parameters())
    built = TWINS[float_class](IN, HIDDEN, 2, bidirectional=True)
    built.load_state_dict(layer.state_dict())
    assert furthest(ranged(layer, 2.0, 0.5)(x()), ranged(built, 2.0, 0.5)(x())) == 0.0


@BOTH
def test_the_float_keys_do_not_change_and_fit_both_ways(float_class: Any) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, 2)
    assert list(layer.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
    plain.load_state_dict(layer.state_dict(), strict=True)
    assert furthest(passing(layer)(x()), plain(x())) <= 1e-6


@BOTH
def test_its_ranges_are_saved_and_load_into_a_fresh_layer(float_class: Any) -> None:
    _, layer = twin(float_class)
    ranged(layer, 2.0, 0.5)
    extra = layer.state_dict().keys() - float_class(IN, HIDDEN).state_dict().keys()
    assert extra == {"_input_quantizers.0._amax", "_input_quantizers.1._amax"}
    fresh = TWINS[float_class](IN, HIDDEN)
    fresh.load_state_dict(layer.state_dict(), strict=True)
    assert furthest(fresh(x()), layer(x())) == 0.0


@BOTH
def test_a_deep_copy_is_its_own_layer(float_class: Any) -> None:
    _, layer = twin(float_class)
    other = copy.deepcopy(ranged(layer, 2.0, 0.5))
    assert furthest(other(x()), layer(x())) == 0.0
    with torch.no_grad():
        other.weight_hh_l0.mul_(2)
    other._input_quantizers[0].set_range(None, 0.1)
    assert furthest(other(x()), layer(x())) > 1e-3
    assert furthest(layer(x()), ranged(twin(float_class)[1], 2.0, 0.5)(x())) == 0.0


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_float_type_is_kept(float_class: Any, dtype: torch.dtype) -> None:
    _, layer = twin(float_class)
    ranged(layer, 2.0, 0.5)
    before = layer(x())
    found = layer.to(dtype)(x().to(dtype))
    assert {each.dtype for each in tensors(found)} == {dtype}
    assert furthest(found, before) < (0.03 if dtype == torch.bfloat16 else 1e-6)


@BOTH
def test_weights_put_in_place_of_the_parameters_are_used(float_class: Any) -> None:
    plain, layer = twin(float_class)
    doubled = {name: 2 * each for name, each in plain.named_parameters()}
    found = torch.func.functional_call(passing(layer), doubled, (x(),))
    assert furthest(found, torch.func.functional_call(plain, doubled, (x(),))) <= 1e-6


# ---- gradients


@BOTH
def test_gradients_of_a_layer_that_passes_are_those_of_the_float_layer(float_class: Any) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, 2, bidirectional=True, dtype=torch.float64)
    sequences = [normal(n, IN, seed=n).double().requires_grad_() for n in (2, 5, 3)]
    grads = []
    for each in (plain, passing(layer)):
        y, last = each(pack_sequence(sequences, enforce_sorted=False))
        loss = (y.data**2).sum() + sum((state**2).sum() for state in tensors(last))
        grads.append(torch.autograd.grad(loss, [*sequences, *each.parameters()]))
    for wanted, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted)


@BOTH
def test_gradients_reach_every_parameter_and_what_lies_inside_the_range(float_class: Any) -> None:
    _, layer = twin(float_class, IN, HIDDEN, 2, bidirectional=True)
    given = x().requires_grad_()
    y, _ = ranged(layer, 1.0)(given)
    (y**2).sum().backward()
    assert all(bool((each.grad != 0).any()) for each in layer.parameters())
    assert given.grad is not None
    outside = given.detach().abs() > 1.0
    assert bool(outside.any())
    assert bool((given.grad[outside] == 0).all())
    assert bool((given.grad[~outside] != 0).all())


# ---- observers and sites


@BOTH
@pytest.mark.parametrize("backwards", [False, True])
def test_observers_see_all_that_the_products_read(float_class: Any, backwards: bool) -> None:
    plain, layer = twin(float_class, IN, HIDDEN, bidirectional=backwards)
    seen: dict[str, list[Tensor]] = {}
    for k, quantizer in enumerate(layer._input_quantizers):
        quantizer.site = f"input_{k}"
        quantizer.observer = lambda site, each: seen.setdefault(site, []).append(each)
    y, _ = layer(x())
    assert {site: len(each) for site, each in seen.items()} == dict.fromkeys(
        [f"input_{k}" for k in range(4 if backwards else 2)], 1
    )
    wanted, _ = plain(x())
    states = wanted[..., HIDDEN:].flip(0) if backwards else wanted
    before = torch.cat([torch.zeros(1, 6, HIDDEN), states[:-1]])
    assert torch.equal(seen["input_2" if backwards else "input_0"][0].view_as(x()), x())
    of_h = seen["input_3" if backwards else "input_1"][0]
    torch.testing.assert_close(of_h.view_as(before), before, atol=1e-6, rtol=0)
    assert furthest(y, wanted) <= 1e-6


def test_observers_see_no_padding_of_a_packed_batch() -> None:
    _, layer = twin(nn.LSTM)
    seen: list[Tensor] = []
    for quantizer in layer._input_quantizers:
        quantizer.observer = lambda _, each: seen.append(each)
    sequences = [normal(n, IN, seed=n) for n in (2, 5, 3)]
    layer(pack_sequence(sequences, enforce_sorted=False))
    assert [tuple(each.shape) for each in seen] == [(10, IN), (10, HIDDEN)]
    torch.testing.assert_close(seen[0].sum(), torch.cat(sequences).sum())


@BOTH
def test_sites_are_numbered_by_layer_and_direction(float_class: Any) -> None:
    model = nn.ModuleDict({"rnn": TWINS[float_class](IN, HIDDEN, 2, bidirectional=True)})
    assert set(quantizers(model)) == {
        f"rnn.{role}_{k}" for role in ("input", "weight") for k in range(8)
    }
    assert model["rnn"].weight_names == (
        "weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse",
        "weight_ih_l1", "weight_hh_l1", "weight_ih_l1_reverse", "weight_hh_l1_reverse",
    )  # fmt: skip


@BOTH
def test_its_weights_are_listed_by_role_with_the_grid_they_are_rounded_to(float_class: Any) -> None:
    _, layer = twin(float_class)
    listed = layer.weights()
    assert list(listed) == ["weight_0", "weight_1"]
    for (weight, grid), name in zip(listed.values(), layer.weight_names, strict=True):
        assert weight is getattr(layer, name)
        quantizer = TensorQuantizer(grid.spec)
        fq = quantizer(weight, grid).detach().numpy()
        assert abs(fq - rounded_rows(weight)).max() < 1e-6
