"""QuantDescriptor: its defaults, refusals, equality, dict, YAML and text."""

import builtins
import copy
import importlib
import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.compat.pytorch_quantization import tensor_quant
from qdq.compat.pytorch_quantization.tensor_quant import QuantDescriptor

AXES = st.none() | st.integers(-4, 4) | st.lists(st.integers(0, 4), max_size=3).map(tuple)
RANGES = st.none() | st.floats(0, 100) | st.lists(st.floats(0, 9, width=32), max_size=3)


@st.composite
def descriptors(draw: st.DrawFn) -> QuantDescriptor:
    learned = draw(st.booleans())
    return QuantDescriptor(
        draw(st.integers(1, 16) | st.just((4, 3))),
        draw(st.none() | st.text(st.characters(codec="ascii", exclude_categories=["C"]))),
        fake_quant=draw(st.booleans()),
        axis=None if learned else draw(AXES),
        amax=draw(RANGES),
        learn_amax=learned,
        scale_amax=draw(st.none() | st.floats(0.1, 2)),
        calib_method=draw(st.sampled_from(["max", "histogram"])),
        unsigned=draw(st.booleans()),
        narrow_range=draw(st.booleans()),
    )


def test_the_defaults() -> None:
    assert QuantDescriptor().dict() == {"num_bits": 8, "name": None}
    assert vars(QuantDescriptor()) == {
        "num_bits": 8,
        "name": None,
        "fake_quant": True,
        "axis": None,
        "amax": None,
        "learn_amax": False,
        "scale_amax": None,
        "calib_method": "max",
        "unsigned": False,
        "narrow_range": False,
    }
    assert tensor_quant.ScaledQuantDescriptor is QuantDescriptor


@pytest.mark.parametrize(
    ("amax", "shape"), [(0.7, ()), ([1.3, 1.4], (2,)), (np.ones((2, 1)), (2, 1))]
)
def test_amax_becomes_a_float32_array_of_its_own(amax: Any, shape: tuple[int, ...]) -> None:
    held = QuantDescriptor(amax=amax).amax
    assert isinstance(held, np.ndarray)
    assert (held.dtype, held.shape) == (np.float32, shape)
    np.testing.assert_array_equal(held, np.float32(amax))
    assert held is not amax


def test_a_descriptor_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        QuantDescriptor().num_bits = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"num_bits": -1}, ValueError, r"^num_bits must be >= 0, got -1$"),
        ({"num_bits": 8.0}, TypeError, r"must be a postive integer or tuple \(4,3\), got 8\.0$"),
        ({"num_bits": (5, 2)}, TypeError, r"must be a postive integer or tuple \(4,3\)"),
        ({"num_bits": [4, 3]}, TypeError, r"must be a postive integer or tuple \(4,3\)"),
        ({"name": 3}, TypeError, r"^name must be a string or None, got 3$"),
        ({"amax": 1}, TypeError, r"^amax must be float, list or ndarray, got int$"),
        ({"amax": "oops", "learn_amax": True}, TypeError, r"^amax must be float, list or ndarray"),
        (
            {"axis": (1, 2), "amax": 0.7, "learn_amax": True},
            TypeError,
            r"^axis is ignored and must be None when learn_amax is true, got \(1, 2\)$",
        ),
        ({"bits": 8, "axes": 0}, TypeError, r"^Unused keys: \['axes', 'bits'\]"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        QuantDescriptor(**arguments)


def test_keywords_come_by_name() -> None:
    with pytest.raises(TypeError, match="positional"):
        QuantDescriptor(8, "w", True)  # type: ignore[misc]


def test_no_bits_at_all_are_only_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    assert QuantDescriptor(0).num_bits == 0
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pytorch_quantization", logging.ERROR)


@pytest.mark.parametrize("method", ["entropy", "mse", "percentile", "Histogram"])
def test_an_unknown_calibration_method_is_taken_with_a_warning(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert QuantDescriptor(calib_method=method).calib_method == method
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"calib_method '{method}' is none of ('max', 'histogram')"
    )
    assert "load_calib_amax, after calib_method='histogram'" in record.getMessage()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(descriptors())
def test_dict_yaml_and_copies_give_the_same_descriptor_again(one: QuantDescriptor) -> None:
    pytest.importorskip("yaml")
    twins = [
        QuantDescriptor(**one.dict()),
        QuantDescriptor.from_yaml(one.to_yaml()),
        copy.deepcopy(one),
    ]
    for twin in twins:
        assert twin == one
        assert str(twin) == str(one)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(descriptors(), descriptors())
def test_descriptors_are_equal_exactly_if_all_fields_are(
    one: QuantDescriptor, other: QuantDescriptor
) -> None:
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    assert (one == other) == all(np.array_equal(*pair) for pair in pairs)


def test_a_descriptor_equals_nothing_else() -> None:
    assert QuantDescriptor() != 8
    assert QuantDescriptor(amax=[1.0, 2.0]) != QuantDescriptor(amax=[1.0, 3.0])


def test_yaml_writes_axes_as_a_list() -> None:
    yaml = pytest.importorskip("yaml")
    written = yaml.safe_load(QuantDescriptor((4, 3), axis=(1, 2), amax=0.5).to_yaml())
    assert written == {"num_bits": [4, 3], "name": None, "axis": [1, 2], "amax": 0.5}
    assert QuantDescriptor.from_yaml("num_bits: 8\naxis: [0, 1]").axis == (0, 1)


def test_without_pyyaml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", nothing)
    for call in (QuantDescriptor().to_yaml, lambda: QuantDescriptor.from_yaml("num_bits: 8")):
        with pytest.raises(ModuleNotFoundError, match=r"PyYAML is installed: pip install pyyaml$"):
            call()


@pytest.mark.parametrize(
    ("descriptor", "text"),
    [
        (QuantDescriptor(), "QuantDescriptor(8bit fake axis= per-tensor)"),
        (
            QuantDescriptor(4, "w", axis=0, amax=[1.0, 2.0], unsigned=True, scale_amax=0.5),
            "w: (unsigned 4bit fake axis=0 amax=[1. 2.] full_range scale_amax=0.5)",
        ),
        (
            QuantDescriptor((4, 3), fake_quant=False, amax=1.5, learn_amax=True),
            "QuantDescriptor((4, 3)bit real axis= per-tensor amax=1.5 full_range learn_amax)",
        ),
    ],
)
def test_its_text_names_what_is_not_usual(descriptor: QuantDescriptor, text: str) -> None:
    assert str(descriptor) == repr(descriptor) == text


def test_the_predefined_ones_keep_the_axis_of_output_channels() -> None:
    named = {
        name: getattr(tensor_quant, name)
        for name in tensor_quant.__all__
        if name.startswith("QUANT_DESC")
    }
    assert len(named) == 9
    for name, descriptor in named.items():
        axis = (
            1 if "CONVTRANSPOSE" in name else 0 if "PER_CHANNEL" in name or "ROW" in name else None
        )
        assert descriptor == QuantDescriptor(8, axis=axis, unsigned="UNSIGNED" in name)
        assert type(descriptor.axis) in (int, builtins.type(None))
