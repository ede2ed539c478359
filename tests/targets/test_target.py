"""Targets are frozen values with rules behind each field."""

import dataclasses

import pytest

from qdq.errors import RegistryError, SpecError
from qdq.spec import QuantSpec
from qdq.targets import TARGETS, Target, get
from qdq.targets.target import VARIANTS


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


@pytest.mark.parametrize("version", ["8", "8.6", "8.6.1"])
def test_tensorrt_8_reads_float_weights_and_no_quantized_transposed_conv(version: str) -> None:
    old, usual = get(f"tensorrt:{version}"), get("tensorrt")  # T04, T06
    assert (old.name, old.variant, old.label) == ("tensorrt", version, f"tensorrt:{version}")
    assert (old.float_weights, old.transposed_axis) == (True, 0)
    assert (usual.float_weights, usual.transposed_axis, usual.label) == (False, 1, "tensorrt")
    assert set(old.float_kinds) - set(usual.float_kinds) == {"conv_transpose"}
    assert get("tensorrt", variant=version) == old


@pytest.mark.parametrize("version", ["9", "10", "10.13"])
def test_later_versions_of_tensorrt_are_the_usual_one(version: str) -> None:
    assert get(f"tensorrt:{version}", variant=version) == get("tensorrt", variant=version)
    assert dataclasses.replace(get(f"tensorrt:{version}"), variant="") == get("tensorrt")


def test_without_vnni_weights_have_seven_bits_and_nothing_else_differs() -> None:
    slow, usual = get("onnxruntime:x86-without-vnni"), get("onnxruntime:x86")  # O24
    assert (slow.weight.qmin, slow.weight.qmax) == (-63, 63)
    assert dataclasses.replace(slow, weight=usual.weight, costs=usual.costs, variant="x86") == usual


def test_arm_keeps_int8_codes_whose_lowest_stands_for_zero_behind_a_relu() -> None:
    arm = get("onnxruntime:arm")  # O03, O24, O27
    assert (arm.activation.signed, arm.activation.symmetric) == (True, False)
    assert arm.signed_kernels
    assert {"shift_codes", "split_quantizers"} <= set(arm.skip_passes)


def test_the_portable_form_has_the_codes_of_one_and_the_places_of_the_other() -> None:
    both, codes, places = get("tensorrt:portable"), get("tensorrt"), get("onnxruntime")
    for field in ("activation", "weight", "integer_bias", "name"):
        assert getattr(both, field) == getattr(codes, field)
    for field in ("quantize_outputs", "skip_branch_only"):
        assert getattr(both, field) == getattr(places, field)
    assert both.note == ""


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_named_by_what_get_takes(name: str) -> None:
    for variant in VARIANTS[name]:
        assert get(get(f"{name}:{variant}").label) == get(f"{name}:{variant}")


def test_a_variant_of_a_target_given_as_a_value_keeps_its_other_fields() -> None:
    small = get("tensorrt", skip_small=True)
    assert get(small, variant="8").skip_small
    assert get(small, variant="8").float_weights


def test_another_variant_takes_the_place_of_the_first_and_leaves_what_the_user_chose() -> None:
    eight = get("tensorrt:8", skip_small=True)
    assert get(eight, variant="10") == get("tensorrt:10", skip_small=True)
    assert get(eight, variant="") == get("tensorrt", skip_small=True)
    arm = get("onnxruntime:arm", costs="mine.json")
    assert get(arm, variant="x86").costs == "mine.json"
    assert not get(arm, variant="x86").signed_kernels


def test_a_version_may_be_a_number() -> None:
    assert get("tensorrt", variant=8) == get("tensorrt:8")
    assert get("tensorrt", variant=8.6) == get("tensorrt:8.6")


@pytest.mark.parametrize("name", [None, 8])
def test_what_is_neither_a_name_nor_a_target_is_refused(name: object) -> None:
    with pytest.raises(RegistryError, match=f"no target '{name}'\n  fix: known: onnxruntime, "):
        get(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tensorrt:7.2", "onnxruntime:gpu", "onnxruntime:vnni.2"])
def test_an_unknown_variant_names_all_known(name: str) -> None:
    target, _, variant = name.partition(":")
    with pytest.raises(RegistryError) as caught:
        get(name)
    known = {"tensorrt": "8, 9, 10, portable", "onnxruntime": "x86, x86-without-vnni, arm"}
    assert str(caught.value) == (
        f"target {target!r} has no variant {variant!r}\n  fix: known: {known[target]}"
    )


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
