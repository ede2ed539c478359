"""Targets are frozen values with rules behind each field."""

import dataclasses

import pytest

from qdq.errors import RegistryError, SpecError
from qdq.spec import QuantSpec
from qdq.targets import TARGETS, Target, get


def test_tensorrt_wants_symmetric_int8_and_nothing_behind_a_product() -> None:
    target = get("tensorrt")  # T01, T02, T09, T11, T22
    assert (target.activation.signed, target.activation.symmetric) == (True, True)
    assert (target.activation.qmin, target.activation.qmax) == (-128, 127)
    assert (target.integer_bias, target.quantize_outputs) == (False, False)
    assert target.skip_branch_only


def test_onnxruntime_wants_affine_uint8_int32_biases_and_pairs_behind_products() -> None:
    target = get("onnxruntime")  # O01, O02, O03, O07, O09, O10
    assert (target.activation.signed, target.activation.symmetric) == (False, False)
    assert (target.activation.qmin, target.activation.qmax) == (0, 255)
    assert (target.integer_bias, target.quantize_outputs) == (True, True)
    assert not target.skip_branch_only


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_mirrored_int8_weights_and_is_found_by_its_own_name(name: str) -> None:
    target = get(name)
    assert target.name == name
    assert (target.weight.qmin, target.weight.qmax, target.weight.symmetric) == (-127, 127, True)


def test_a_tensorrt_file_tells_who_runs_it_elsewhere_what_to_do() -> None:
    assert "export for target 'onnxruntime'" in get("tensorrt").note
    assert get("onnxruntime").note == ""


def test_a_target_is_given_back_as_it_is() -> None:
    target = get("tensorrt")
    assert get(target) == target


def test_options_replace_fields_of_the_copy_alone() -> None:
    four = get("tensorrt", activation=QuantSpec(bits=4))
    assert four.activation.bits == 4
    assert four.weight == get("tensorrt").weight
    assert get("tensorrt").activation.bits == 8
    assert get(four, integer_bias=True).activation.bits == 4


def test_a_target_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("tensorrt").integer_bias = True  # type: ignore[misc]


def test_an_unknown_target_names_the_nearest_and_all_known() -> None:
    with pytest.raises(RegistryError) as caught:
        get("tensorr")
    known = ", ".join(sorted(TARGETS))
    assert str(caught.value) == (
        f"no target 'tensorr'\n  fix: did you mean 'tensorrt'? known: {known}"
    )


def test_an_unknown_option_names_the_nearest_and_all_known() -> None:
    with pytest.raises(SpecError) as caught:
        get("tensorrt", activations=QuantSpec())
    fields = sorted({field.name for field in dataclasses.fields(Target)} - {"name"})
    assert str(caught.value) == (
        "target 'tensorrt' has no option 'activations'\n"
        f"  fix: did you mean 'activation'? known: {', '.join(fields)}"
    )
