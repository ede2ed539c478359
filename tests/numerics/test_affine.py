"""The arithmetic against onnxruntime's operators and against numpy, ties and ends included."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from qdq.numerics.affine import (
    QParams,
    bias_scale,
    dequantize,
    fake_quantize,
    fake_quantize_bias,
    qparams,
    quantize,
    quantize_bias,
    range_of,
)
from qdq.spec import QuantSpec

Floats = NDArray[np.float32]

INT8 = QuantSpec()
UINT8 = QuantSpec(signed=False, symmetric=False)
TINY = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)
SPECS = [
    QuantSpec(bits=bits, signed=signed, symmetric=symmetric, narrow=narrow)
    for bits in range(2, 17)
    for signed in (True, False)
    for symmetric in (True, False)
    for narrow in (True, False)
    if signed or not narrow
]
CODES = {
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
    (16, True): TensorProto.INT16,
    (16, False): TensorProto.UINT16,
}
laws = settings(deadline=None, derandomize=True, database=None, max_examples=50)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@cache
def onnx_operators(spec: QuantSpec, channels: int) -> onnxruntime.InferenceSession:
    """(x, scale, zero_point) -> (QuantizeLinear(x), DequantizeLinear of that)."""
    code_type = CODES[spec.bits, spec.signed]
    shape = [channels] if channels else []
    axis = {"axis": spec.keep_axis} if channels else {}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **axis),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["values"], **axis),
        ],
        "pair",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("zero", code_type, shape),
        ],
        [
            helper.make_tensor_value_info("codes", code_type, None),
            helper.make_tensor_value_info("values", TensorProto.FLOAT, None),
        ],
    )
    opset = 13 if spec.bits == 8 else 21
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def grid_of(scale: object, zero_point: object, spec: QuantSpec) -> QParams:
    """A grid with this very scale, its range from end to end."""
    step = torch.as_tensor(scale, dtype=torch.float32)
    zero = torch.as_tensor(zero_point, dtype=torch.float32)
    return QParams(step, zero, (spec.qmin - zero) * step, (spec.qmax - zero) * step, spec)


def assert_equal_to_onnxruntime(x: Floats, grid: QParams) -> None:
    spec = grid.spec
    code_type = helper.tensor_dtype_to_np_dtype(CODES[spec.bits, spec.signed])
    session = onnx_operators(spec, grid.scale.numel() if grid.scale.dim() else 0)
    codes, values = session.run(
        None,
        {"x": x, "scale": grid.scale.numpy(), "zero": grid.zero_point.numpy().astype(code_type)},
    )
    ours = quantize(torch.from_numpy(x), grid)
    assert ours.dtype == torch.int32
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(x), grid).numpy(), values)
    np.testing.assert_array_equal(dequantize(ours, grid).numpy(), values)


def reference_steps(x: Floats, scale: Floats | float, low: float, high: float) -> Floats:
    """Whole steps from 0.0, in numpy's float32."""
    with np.errstate(over="ignore"):
        return np.clip(np.rint(x.astype(np.float32) / np.float32(scale)), low, high)


def neighbours(x: Floats) -> Floats:
    """x with the float below and the float above each."""
    x = x.astype(np.float32)
    above, below = (np.nextafter(x, np.float32(end), dtype=np.float32) for end in (np.inf, -np.inf))
    return np.concatenate([below, x, above])


@cache
def edge_values() -> Floats:
    """Infinities, zeros of both signs, subnormals and the ends of float32."""
    subnormal = np.float32(1e-45)
    half = [0.0, subnormal, TINY / 2, TINY, LARGEST, np.inf, 1e-20, 1e20, 1.0]
    return np.array([*half, *(-np.float32(v) for v in half)], np.float32)


def random_floats(scale: float, batches: int, size: int) -> Iterator[Floats]:
    """Half over the codes and past them, half any bit pattern that is no NaN."""
    rng = np.random.default_rng(0)
    for _ in range(batches):
        near = rng.random(size // 2, np.float32) - np.float32(0.5)
        with np.errstate(over="ignore"):
            near = near * np.float32(600) * np.float32(scale)
        bits = rng.integers(0, 2**32, size - len(near), np.uint32).view(np.float32)
        yield np.concatenate([near, np.where(np.isnan(bits), np.float32(0), bits)])


@pytest.mark.parametrize("scale", [2.0**-7, 0.1, 0.0123456789, 3.0, TINY, 2.6e36])
@pytest.mark.parametrize(("spec", "zero_point"), [(INT8, 0), (UINT8, 118)], ids=str)
def test_ten_million_floats_equal_onnxruntime(
    spec: QuantSpec, zero_point: int, scale: float
) -> None:
    for x in random_floats(scale, batches=5, size=2_000_000):
        assert_equal_to_onnxruntime(x, grid_of(scale, zero_point, spec))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [2.0**-7, 1.0, 2.0**60, 0.1, 1 / 3, 0.017, 7.3e-5, 123.4, TINY])
@pytest.mark.parametrize(
    ("signed", "symmetric"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_every_tie_and_its_neighbours_equal_onnxruntime(
    signed: bool, symmetric: bool, scale: float, bits: int
) -> None:
    spec = QuantSpec(bits=bits, signed=signed, symmetric=symmetric)
    zero_point = 0 if symmetric else spec.qmin + 100
    steps = np.arange(spec.qmin - zero_point - 3, spec.qmax - zero_point + 4, dtype=np.float64)
    ties = ((steps + 0.5) * np.float64(np.float32(scale))).astype(np.float32)
    assert_equal_to_onnxruntime(neighbours(ties), grid_of(scale, zero_point, spec))


def test_a_tie_goes_to_the_even_code() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -127.5, -128.5]) / 4
    codes = quantize(x, grid_of(0.25, 0, INT8))
    assert codes.tolist() == [0, 2, 2, 0, -2, -2, 126, 127, -128, -128]


@pytest.mark.parametrize("scale", [2.0**-7, 0.1, 3.0, TINY, 2.6e36])
@pytest.mark.parametrize(("spec", "zero_point"), [(INT8, 0), (UINT8, 0), (UINT8, 255)], ids=str)
def test_edge_values_and_range_ends_equal_onnxruntime(
    spec: QuantSpec, zero_point: int, scale: float
) -> None:
    grid = grid_of(scale, zero_point, spec)
    ends = np.array([grid.amin, grid.amax], np.float32)
    half = np.float32(scale) / 2
    near = neighbours(np.concatenate([ends, ends - half, ends + half]))
    assert_equal_to_onnxruntime(np.concatenate([edge_values(), near]), grid)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("signed", "symmetric"), [(True, True), (False, False), (False, True)])
def test_a_scale_per_channel_equals_onnxruntime(axis: int, signed: bool, symmetric: bool) -> None:
    spec = QuantSpec(signed=signed, symmetric=symmetric, keep_axis=axis)
    scales = np.array([0.1, 2.0**-5, 3.7, TINY, 1e30, 0.0171], np.float32)
    zeros = np.zeros(6) if symmetric else np.array([0, 17, 128, 200, 255, 1])
    rng = np.random.default_rng(1)
    steps = rng.integers(-600, 600, (6, 6, 7, 11)) / np.float32(2)  # every other one is a tie
    x = (steps * scales.reshape(-1, *[1] * (3 - axis))).astype(np.float32)
    assert_equal_to_onnxruntime(x, grid_of(scales, zeros, spec))


def test_a_negative_axis_counts_from_the_end() -> None:
    x = torch.linspace(-3, 3, 30).view(5, 6)
    scales = torch.linspace(0.1, 0.6, 6)
    from_end = grid_of(scales, torch.zeros(6), QuantSpec(keep_axis=-1))
    from_start = grid_of(scales, torch.zeros(6), QuantSpec(keep_axis=1))
    assert torch.equal(fake_quantize(x, from_end), fake_quantize(x, from_start))


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_codes_of_every_width_equal_numpy(spec: QuantSpec) -> None:
    zero_point = 0 if spec.symmetric else spec.qmin + (spec.qmax - spec.qmin) // 3
    scale = np.float32(0.037)
    steps = np.arange(spec.qmin - 3, spec.qmax + 4, max(1, 2 ** (spec.bits - 9))) + np.float32(0.5)
    x = np.concatenate([neighbours((steps * scale).astype(np.float32)), edge_values()])
    low, high = spec.qmin - zero_point, spec.qmax - zero_point
    expected = reference_steps(x, scale, low, high)
    grid = grid_of(scale, zero_point, spec)
    np.testing.assert_array_equal(quantize(torch.from_numpy(x), grid), expected + zero_point)
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(x), grid), expected * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("spec", "zero_point"), [(INT8, 0), (UINT8, 77)], ids=str)
def test_other_float_types_are_computed_in_fp32_and_cast(
    spec: QuantSpec, zero_point: int, dtype: torch.dtype
) -> None:
    scale = np.float32(0.0123456789)
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = reference_steps(
        x.float().numpy(), scale, spec.qmin - zero_point, spec.qmax - zero_point
    )
    result = fake_quantize(x, grid_of(scale, zero_point, spec))
    assert result.dtype == dtype
    assert torch.equal(result, torch.from_numpy(expected * scale).to(dtype))
    codes = quantize(x, grid_of(scale, zero_point, spec))
    np.testing.assert_array_equal(codes, expected + zero_point)


@pytest.mark.parametrize("spec", [INT8, UINT8], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_stays_nan_and_leaves_its_neighbours_alone(spec: QuantSpec, dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, float("nan"), -1.0], dtype=dtype)
    result = fake_quantize(x, qparams(torch.tensor(-1.0), torch.tensor(1.0), spec))
    assert torch.isnan(result).tolist() == [False, True, False]


@pytest.mark.parametrize("layout", ["transposed", "strided", "channels_last", "empty", "scalar"])
def test_the_layout_of_x_does_not_matter(layout: str) -> None:
    base = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(0))
    x = {
        "transposed": base.transpose(0, 2),
        "strided": base[:, ::2],
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "empty": base[:0],
        "scalar": base[0, 0, 0, 0],
    }[layout]
    expected = reference_steps(x.contiguous().numpy(), 0.1, -128, 127) * np.float32(0.1)
    result = fake_quantize(x, grid_of(0.1, 0, INT8))
    assert result.shape == x.shape
    np.testing.assert_array_equal(result, expected)


# ---- range -> grid


def range_strategy() -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(finite, finite).map(lambda pair: (min(pair), max(pair)))


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-3.7, 0.2), (0.0, 6.0), (0.5, 2.5), (-9.0, -1.0)])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_signed_symmetric_scale_is_the_largest_magnitude_over_qmax(
    narrow: bool, ends: tuple[float, float], bits: int
) -> None:
    grid = qparams(*map(torch.tensor, ends), QuantSpec(bits=bits, narrow=narrow))
    largest = np.float32(max(abs(end) for end in ends))
    assert grid.scale.item() == largest / np.float32(2 ** (bits - 1) - 1)
    assert grid.zero_point.item() == 0
    assert (grid.amin.item(), grid.amax.item()) == (-largest, largest)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("ends", [(0.0, 6.0), (0.5, 2.5), (-1.0, 3.0)])
def test_an_unsigned_symmetric_scale_is_the_upper_end_over_qmax(
    ends: tuple[float, float], bits: int
) -> None:
    grid = qparams(*map(torch.tensor, ends), QuantSpec(bits=bits, signed=False))
    assert grid.scale.item() == np.float32(ends[1]) / np.float32(2**bits - 1)
    assert grid.zero_point.item() == 0
    assert (grid.amin.item(), grid.amax.item()) == (0, ends[1])


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-3.7, 0.2), (0.0, 6.0), (0.5, 2.5), (-9.0, -1.0)])
def test_an_affine_grid_is_that_of_the_range_widened_to_hold_zero(
    ends: tuple[float, float], signed: bool, bits: int
) -> None:
    spec = QuantSpec(bits=bits, signed=signed, symmetric=False)
    grid = qparams(*map(torch.tensor, ends), spec)
    low, high = min(0.0, float(np.float32(ends[0]))), max(0.0, float(np.float32(ends[1])))
    qmin = -(2 ** (bits - 1)) if signed else 0
    scale = (high - low) / (2**bits - 1)
    assert grid.scale.item() == pytest.approx(scale, rel=2.0**-22)
    assert abs(grid.zero_point.item() - (qmin - low / scale)) <= 0.5 + 2.0**-6
    assert (grid.amin.item(), grid.amax.item()) == (low, high)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.symmetric], ids=repr)
@laws
@given(ends=range_strategy())
def test_an_affine_grid_has_a_code_for_exactly_zero(
    spec: QuantSpec, ends: tuple[float, float]
) -> None:
    grid = qparams(*map(torch.tensor, ends), spec)
    zero_point = grid.zero_point.item()
    assert zero_point == round(zero_point)
    assert spec.qmin <= zero_point <= spec.qmax
    zeros = torch.tensor([0.0, -0.0])
    assert quantize(zeros, grid).tolist() == [zero_point, zero_point]
    assert fake_quantize(zeros, grid).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@laws
@given(ends=range_strategy(), x=finite)
def test_no_range_gives_anything_but_finite_positive_scales_and_finite_values(
    spec: QuantSpec, ends: tuple[float, float], x: float
) -> None:
    grid = qparams(*map(torch.tensor, ends), spec)
    assert 0 < grid.scale.item() < float("inf")
    assert bool(torch.isfinite(fake_quantize(torch.tensor([x, *ends, 0.0]), grid)).all())


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_the_widest_range_of_all_overflows_nowhere_and_keeps_its_scale(spec: QuantSpec) -> None:
    low, high = torch.tensor(-LARGEST), torch.tensor(LARGEST)
    grid = qparams(low, high, spec)
    x = torch.tensor([-LARGEST, LARGEST, -0.999 * LARGEST, 0.999 * LARGEST, 1e38, -1e38, 0.0])
    assert bool(torch.isfinite(fake_quantize(x, grid)).all())
    width = LARGEST * (1 if spec.symmetric else 2)
    steps = spec.qmax if spec.symmetric else spec.qmax - spec.qmin
    shrunk = 1 - 1 / (steps + 1) if not spec.symmetric else 1 - 1e-6
    assert width / steps * shrunk * (1 - 1e-6) <= grid.scale.item() <= width / steps * (1 + 1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-40, TINY, "largest"])
def test_a_zero_subnormal_or_tiny_range_gives_scale_1_and_the_code_of_zero(
    amax: float | str, spec: QuantSpec
) -> None:
    steps = spec.qmax if spec.symmetric else spec.qmax - spec.qmin
    end = TINY * steps * (1 - 1e-6) if amax == "largest" else float(amax)
    if steps == 1 and end == TINY:
        end = TINY / 2  # with one step the scale is the range itself
    low = torch.tensor(0.0)
    grid = qparams(low, torch.tensor(end), spec)
    assert grid.scale.item() == 1
    x = torch.tensor([0.0, -0.0, end, end / 2])
    assert (quantize(x, grid) == grid.zero_point).all()
    assert torch.equal(fake_quantize(x, grid), torch.zeros(4))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.symmetric], ids=repr)
def test_the_smallest_normal_scale_is_still_used(spec: QuantSpec) -> None:
    end = torch.tensor(TINY) * spec.qmax
    assert qparams(-end, end, spec).scale.item() == np.float32(TINY)


def test_one_dead_channel_does_not_touch_the_others() -> None:
    amax = torch.tensor([0.0, 1.27, 1e-42, LARGEST])
    grid = qparams(-amax, amax, QuantSpec(keep_axis=0))
    expected = np.array([1, np.float32(1.27) / np.float32(127), 1, LARGEST / 127], np.float32)
    np.testing.assert_allclose(grid.scale.numpy(), expected, rtol=2.0**-22)
    assert grid.scale[1].item() == expected[1]


def test_a_grid_is_float32_and_cut_off_from_the_graph() -> None:
    amax = torch.tensor([1.0, 2.0], dtype=torch.float16, requires_grad=True)
    for spec in (QuantSpec(keep_axis=0), QuantSpec(symmetric=False, keep_axis=0)):
        grid = qparams(-amax, amax, spec)
        for tensor in (grid.scale, grid.zero_point, grid.amin, grid.amax):
            assert tensor.dtype == torch.float32
            assert tensor.shape == (2,)
            assert not tensor.requires_grad


def test_a_range_is_left_as_it_was() -> None:
    low, high = torch.tensor([0.5, -1.0]), torch.tensor([2.0, -0.5])
    qparams(low, high, QuantSpec(symmetric=False, keep_axis=0))
    qparams(low, high, QuantSpec(keep_axis=0))
    assert low.tolist() == [0.5, -1.0]
    assert high.tolist() == [2.0, -0.5]


@pytest.mark.parametrize("spec", [INT8, UINT8, QuantSpec(bits=4), QuantSpec(bits=2, narrow=True)])
@laws
@given(
    ends=st.tuples(st.floats(-1e6, -(2.0**-10), width=32), st.floats(0.125, 1e6, width=32)),
    share=st.lists(st.floats(0, 1), min_size=2, max_size=8),
)
def test_inside_the_range_nothing_moves_by_more_than_half_a_step_nor_changes_order(
    spec: QuantSpec, ends: tuple[float, float], share: list[float]
) -> None:
    grid = qparams(*map(torch.tensor, ends), spec)
    low, high = grid.amin.item(), grid.amax.item()
    x = torch.tensor(sorted(low + (high - low) * each for each in share))
    moved = fake_quantize(x, grid)
    # The ends of an affine range lie up to half a step past its end codes.
    bound = grid.scale.item() * (0.5 if spec.symmetric else 1.0) * (1 + 1e-4)
    assert float((moved - x).abs().max()) <= bound
    assert bool((moved.diff() >= 0).all())
    assert torch.equal(fake_quantize(moved, grid), moved)


def test_range_of_takes_the_ends_of_all_or_of_each_entry_of_an_axis() -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    values = x.detach().numpy()
    low, high = range_of(x)
    assert (low.item(), high.item()) == (values.min(), values.max())
    for axis in (0, 1, 2, -1):
        low, high = range_of(x, axis)
        others = tuple(a for a in range(3) if a != axis % 3)
        np.testing.assert_array_equal(low, values.min(axis=others))
        np.testing.assert_array_equal(high, values.max(axis=others))
        assert not low.requires_grad


# ---- gradients


def gradient(x: Tensor, grid: QParams) -> Tensor:
    x = x.detach().clone().requires_grad_()
    weights = torch.arange(1.0, x.numel() + 1).view(x.shape).to(x.dtype)
    (fake_quantize(x, grid) * weights).sum().backward()
    assert x.grad is not None
    return x.grad / weights


@pytest.mark.parametrize(
    ("spec", "ends", "low", "high"),
    [
        (INT8, (-1.3, 0.7), -1.3, 1.3),
        (QuantSpec(signed=False), (-1.3, 0.7), 0.0, 0.7),
        (UINT8, (-1.3, 0.7), -1.3, 0.7),
        (UINT8, (0.2, 0.7), 0.0, 0.7),
        (QuantSpec(symmetric=False), (-1.3, -0.7), -1.3, 0.0),
    ],
    ids=str,
)
def test_gradients_pass_within_the_range_ends_included_and_nowhere_else(
    spec: QuantSpec, ends: tuple[float, float], low: float, high: float
) -> None:
    grid = qparams(*map(torch.tensor, ends), spec)
    below, above = (
        float(np.nextafter(np.float32(end), np.float32(to)))
        for end, to in ((low, -np.inf), (high, np.inf))
    )
    middle = (low + high) / 2
    x = torch.tensor([below, low, middle, high, above, -np.inf, np.inf, np.nan])
    assert gradient(x, grid).tolist() == [0, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_stop_at_each_channels_own_end(axis: int) -> None:
    amax = torch.tensor([0.5, 1.0, 2.0])
    x = torch.tensor([-1.5, 0.4, 0.7]).expand(3, 3).clone()
    expected = (x.abs() <= amax[:, None]).float()
    if axis == 1:
        x, expected = x.T.contiguous(), expected.T
    grid = qparams(-amax, amax, QuantSpec(keep_axis=axis))
    assert torch.equal(gradient(x, grid), expected)


@pytest.mark.parametrize(
    ("dtype", "x", "amax"),
    [(torch.float16, 1.0009765625, 1.0006), (torch.bfloat16, 1.0078125, 1.005)],
)
def test_the_ends_are_compared_in_fp32_whatever_the_type_of_x(
    dtype: torch.dtype, x: float, amax: float
) -> None:
    grid = qparams(torch.tensor(-amax), torch.tensor(amax), INT8)
    grads = gradient(torch.tensor([1.0, x, -x], dtype=dtype), grid)
    assert grads.dtype == dtype
    assert grads.tolist() == [1, 0, 0]


def test_without_gradients_none_are_kept() -> None:
    x = torch.ones(3, requires_grad=True)
    grid = grid_of(0.1, 0, INT8)
    with torch.no_grad():
        assert not fake_quantize(x, grid).requires_grad
    assert not fake_quantize(x.detach(), grid).requires_grad
    assert not quantize(x, grid).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("spec", [INT8, UINT8], ids=str)
def test_the_input_is_never_written_into_nor_shared(
    spec: QuantSpec, trained: bool, dtype: torch.dtype
) -> None:
    x = torch.linspace(-2, 2, 101, dtype=dtype).requires_grad_(trained)
    before = x.detach().clone()
    grid = qparams(torch.tensor(-1.0), torch.tensor(1.0), spec)
    result = fake_quantize(x, grid)
    quantize(x, grid)
    result.detach().fill_(7)
    assert torch.equal(x.detach(), before)


# ---- bias


def test_bias_codes_are_whole_steps_that_stop_at_int32() -> None:
    scale = np.array([0.01, 2.0**-20, 1e-12, 1e-12, 0.1], np.float32)
    bias = np.array([1.234, -0.7, 5.0, -5.0, 0.25], np.float32)
    codes = quantize_bias(torch.from_numpy(bias), torch.from_numpy(scale))
    assert codes.dtype == torch.int32
    expected = np.clip(np.rint(bias / scale).astype(np.float64), -(2**31), 2**31 - 128)
    np.testing.assert_array_equal(codes.numpy(), expected)
    assert codes[2:4].tolist() == [2**31 - 128, -(2**31)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_simulated_bias_has_the_values_of_its_codes_and_full_gradients(
    dtype: torch.dtype,
) -> None:
    bias = torch.tensor([1.234, -0.7, 1e4, 0.0], dtype=dtype, requires_grad=True)
    scale = np.float32(1.7e-5)
    result = fake_quantize_bias(bias, torch.tensor(scale))
    codes = np.clip(np.rint(bias.detach().float().numpy() / scale), -(2.0**31), 2.0**31 - 128)
    assert torch.equal(
        result.detach(), torch.from_numpy(codes.astype(np.float32) * scale).to(dtype)
    )
    result.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [1, 1, 1, 1]
    assert not fake_quantize_bias(bias.detach(), torch.tensor(scale)).requires_grad


def test_the_bias_step_is_the_product_of_both_scales_and_never_zero() -> None:
    of_weight = torch.tensor([0.5, 1e-30, 3e-38])
    product = bias_scale(torch.tensor(1e-10), of_weight)
    np.testing.assert_allclose(product.numpy(), [5e-11, 1, 1], rtol=1e-6)
