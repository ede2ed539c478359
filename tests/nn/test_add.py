"""Quantized sums, gates, products and joins of inputs that are rounded apart in numpy."""

import io
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from qdq.errors import CalibrationError, InputError, SpecError
from qdq.nn import (
    QuantAdd,
    QuantConcat,
    QuantJoin,
    QuantMatMul,
    QuantMul,
    QuantMultiAdd,
    TensorQuantizer,
)
from qdq.spec import QuantSpec


def terms(count: int) -> list[Tensor]:
    seeded = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, generator=seeded) * (index + 1) for index in range(count)]


def rounded(x: Tensor, amax: float) -> np.ndarray:
    scale = np.float32(amax) / np.float32(127)
    return np.clip(np.rint(x.detach().numpy() / scale), -128, 127) * scale


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_term_is_rounded_on_its_own_grid(count: int) -> None:
    add, x = QuantMultiAdd(count), terms(count)
    for index, quantizer in enumerate(add._input_quantizers):
        quantizer.set_range(None, 1.0 + index)
    expected = sum(rounded(term, 1.0 + index) for index, term in enumerate(x))
    np.testing.assert_array_equal(add(*x), expected)


@pytest.mark.parametrize("count", [2, 4])
def test_shared_terms_are_rounded_on_one_grid_of_one_quantizer(count: int) -> None:
    add, x = QuantMultiAdd(count, shared=True), terms(count)
    inputs = [m for n, m in add.named_modules() if "_input" in n and isinstance(m, TensorQuantizer)]
    assert len(inputs) == 1
    inputs[0].set_range(None, 2.5)
    np.testing.assert_array_equal(add(*x), sum(rounded(term, 2.5) for term in x))


def test_a_quant_add_is_the_sum_of_two() -> None:
    for shared in (False, True):
        add = QuantAdd(shared=shared)
        assert isinstance(add, QuantMultiAdd)
        assert (add.inputs, add.shared) == (2, shared)
    add._input_quantizer.set_range(None, 3.0)
    a, b = terms(2)
    np.testing.assert_array_equal(add(a, b), rounded(a, 3.0) + rounded(b, 3.0))


def test_terms_broadcast_against_each_other() -> None:
    add = QuantAdd(shared=True)
    add._input_quantizer.set_range(None, 3.0)
    a, b = torch.randn(3, 1, generator=torch.Generator().manual_seed(0)), torch.ones(4)
    np.testing.assert_array_equal(add(a, b), rounded(a, 3.0) + rounded(b, 3.0))


def test_the_sum_is_rounded_once_its_output_is_switched_on() -> None:
    add, (a, b) = QuantAdd(shared=True), terms(2)
    add._input_quantizer.set_range(None, 3.0)
    plain = add(a, b)
    add._output_quantizer.active = True
    add._output_quantizer.set_range(None, 4.0)
    np.testing.assert_array_equal(add(a, b), rounded(plain, 4.0))


@pytest.mark.parametrize(
    ("join", "given"),
    [
        (QuantAdd(), 3),
        (QuantMul(), 1),
        (QuantMultiAdd(3), 2),
        (QuantMultiAdd(4, shared=True), 0),
        (QuantConcat(3), 4),
    ],
)
def test_another_number_of_tensors_is_refused_by_the_name_of_the_class(
    join: QuantJoin, given: int
) -> None:
    join._output_quantizer.site = "layer1.add.output"
    with pytest.raises(InputError) as caught:
        join(*terms(given))
    assert str(caught.value) == (
        f"this {type(join).__name__} was made for {join.inputs} tensors and got {given}\n"
        "  at:  layer1.add.output\n"
        f"  fix: pass {join.inputs}, or build one for as many as there are"
    )


@pytest.mark.parametrize("inputs", [1, 0, -2])
def test_fewer_than_two_inputs_are_refused_with_the_fix(inputs: int) -> None:
    with pytest.raises(SpecError) as caught:
        QuantMultiAdd(inputs)
    assert str(caught.value) == f"QuantMultiAdd of {inputs} inputs\n  fix: pass inputs=2 or more"


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (QuantMul(), lambda a, b: a * b),
        (QuantMatMul(), lambda a, b: a @ b),
        (QuantConcat(dim=0), lambda a, b: np.concatenate([a, b])),
        (QuantConcat(2, dim=-1), lambda a, b: np.concatenate([a, b], 1)),
    ],
)
def test_a_gate_a_product_and_a_join_see_both_sides_on_their_grids(
    join: QuantJoin, expected: Any
) -> None:
    a, b = (term[:, :3] for term in terms(2))
    for quantizer, amax in zip(join._input_quantizers, (1.5, 3.0), strict=True):
        quantizer.set_range(None, amax)
    wanted = expected(rounded(a, 1.5), rounded(b, 3.0))
    np.testing.assert_allclose(join(a, b), wanted, rtol=1e-6, atol=1e-6)


def test_the_spec_is_that_of_every_quantizer() -> None:
    spec = QuantSpec(signed=False, symmetric=False)
    for add in (QuantAdd(spec=spec), QuantMultiAdd(3, shared=True, spec=spec)):
        found = [m for m in add.modules() if isinstance(m, TensorQuantizer)]
        assert {quantizer.spec for quantizer in found} == {spec}
    assert QuantAdd()._output_quantizer.spec == QuantSpec()


def test_without_ranges_the_sum_is_an_error_and_with_switches_off_it_is_float() -> None:
    add, x = QuantMultiAdd(3), terms(3)
    with pytest.raises(CalibrationError, match="no range yet"):
        add(*x)
    for quantizer in add._input_quantizers:
        quantizer.enabled = False
    assert torch.equal(add(*x), x[0] + x[1] + x[2])


def test_gradients_reach_every_term() -> None:
    add, x = QuantMultiAdd(3, shared=True), [term.requires_grad_() for term in terms(3)]
    add._input_quantizer.set_range(None, 2.0)
    add(*x).sum().backward()
    for term in x:
        assert term.grad is not None
        assert torch.equal(term.grad, (term.abs() <= 2.0).float())


@pytest.mark.parametrize(("shared", "keys"), [(True, 1), (False, 3)])
def test_ranges_load_strictly_into_a_fresh_addition(shared: bool, keys: int) -> None:
    add = QuantMultiAdd(3, shared=shared)
    quantizers = [m for n, m in add.named_modules() if n.startswith("_input_quantizer")]
    ranged = [m for m in quantizers if isinstance(m, TensorQuantizer)]
    for index, quantizer in enumerate(ranged):
        quantizer.set_range(-1.0, index + 1.0)
    state = add.state_dict()
    assert len(state) == 2 * keys
    fresh = QuantMultiAdd(3, shared=shared)
    fresh.load_state_dict(state, strict=True)
    x: Any = terms(3)
    assert torch.equal(fresh(*x), add(*x))


def test_plain_export_writes_a_pair_per_term() -> None:
    add, x = QuantMultiAdd(3), terms(3)
    for quantizer in add._input_quantizers:
        quantizer.set_range(None, 2.0)
    buffer = io.BytesIO()
    torch.onnx.export(add.eval(), tuple(x), buffer, dynamo=False, opset_version=13)
    kinds = [node.op_type for node in onnx.load_from_string(buffer.getvalue()).graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 3
    assert kinds.count("Add") == 2
