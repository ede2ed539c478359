"""The one-pass kernels against numpy bit for bit, and against torch's operators behind them."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from qdq.numerics import compiling, kernels
from qdq.numerics.affine import QParams, fake_quantize, qparams
from qdq.spec import QuantSpec

INT8 = QuantSpec()
UINT8 = QuantSpec(signed=False, symmetric=False)
SPECS = [
    INT8,
    UINT8,
    QuantSpec(bits=4, narrow=True),
    QuantSpec(bits=16, symmetric=False),
    QuantSpec(bits=2, signed=False),
]
laws = settings(deadline=None, derandomize=True, database=None, max_examples=100)


@pytest.fixture(scope="module", autouse=True)
def _for_every_size() -> Iterator[None]:
    """Kernels take tensors of any size, on one thread."""
    pytest.importorskip("numba")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SMALLEST", 1)
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2


def numpy_rounded(x: NDArray[np.float32], grid: QParams, axis: int | None) -> tuple[Any, Any]:
    """(values, mask) from the definition, in numpy's float32."""
    shape = [-1 if each == axis else 1 for each in range(x.ndim)]
    scale, point, low, high = (
        t.numpy() if axis is None else t.numpy().reshape(shape)
        for t in (grid.scale, grid.zero_point, grid.amin, grid.amax)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.clip(np.rint(x / scale), grid.spec.qmin - point, grid.spec.qmax - point)
        return steps * scale, (x >= low) & (x <= high)


def assert_same_bits(got: Tensor, want: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(got.detach().numpy().view(np.int32), want.view(np.int32))


def values_and_gradient(x: Tensor, grid: QParams, grad: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    result = fake_quantize(x, grid)
    result.backward(grad)
    assert x.grad is not None
    return result.detach(), x.grad


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@laws
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=70),
    ends=st.tuples(*[st.floats(-(2.0**100), 2.0**100, width=32)] * 2),
)
def test_any_floats_have_numpys_values_and_the_gradients_of_their_range(
    spec: QuantSpec, bits: list[int], ends: tuple[float, float]
) -> None:
    grid = qparams(torch.tensor(min(ends)), torch.tensor(max(ends)), spec)
    around = np.float32(grid.scale) * np.arange(-9, 9, 0.5, np.float32)
    x = np.concatenate([np.array(bits, np.uint32).view(np.float32), around, [grid.amin, grid.amax]])
    x = np.where(np.isnan(x), np.float32(np.nan), x).astype(np.float32)  # one NaN: numpy has many
    values, mask = numpy_rounded(x, grid, None)
    assert kernels.suit(torch.from_numpy(x))
    with torch.no_grad():
        assert_same_bits(fake_quantize(torch.from_numpy(x), grid), values)
    grad = torch.linspace(-1, 1, len(x))
    trained, gradient = values_and_gradient(torch.from_numpy(x), grid, grad)
    assert_same_bits(trained, values)
    assert_same_bits(gradient, grad.numpy() * mask)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "strided"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_channel_has_its_own_grid_in_every_layout(
    symmetric: bool, layout: str, axis: int
) -> None:
    base = normal(4, 4, 4, 8)
    x = {
        "contiguous": base[..., :4].contiguous(),
        "channels_last": base[..., :4].contiguous(memory_format=torch.channels_last),
        "permuted": base[..., :4].contiguous().permute(3, 1, 0, 2),
        "strided": base[..., ::2],
    }[layout]
    spec = QuantSpec(symmetric=symmetric, keep_axis=axis)
    grid = qparams(torch.tensor([-1.0, -0.5, 0, -3]), torch.tensor([1.5, 0.1, 2, 3]), spec)
    values, mask = numpy_rounded(np.ascontiguousarray(x), grid, axis % 4)
    grad = normal(4, 4, 4, 4)
    rounded, gradient = values_and_gradient(x, grid, grad)
    assert_same_bits(rounded, values)
    assert_same_bits(gradient, grad.numpy() * mask)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_dense_tensor_is_taken_and_its_layout_kept(layout: torch.memory_format) -> None:
    x = normal(2, 3, 4, 5).contiguous(memory_format=layout)
    grid = qparams(torch.tensor(-1.0), torch.tensor(1.5), UINT8)
    assert kernels.suit(x)
    assert fake_quantize(x, grid).stride() == x.stride()
    values, mask = numpy_rounded(np.ascontiguousarray(x), grid, None)
    for grad in (normal(2, 3, 4, 5), normal(1).expand(2, 3, 4, 5), x.detach()):
        rounded, gradient = values_and_gradient(x, grid, grad)
        assert_same_bits(rounded, values)
        assert_same_bits(gradient, grad.numpy() * mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_have_the_bits_of_torchs_operators(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, grad = normal(500).to(dtype), normal(500).flip(0).to(dtype)
    grid = qparams(torch.tensor(-1.3), torch.tensor(1.7), UINT8)
    one_pass = values_and_gradient(x, grid, grad)
    monkeypatch.setattr(kernels, "suit", lambda *_: False)
    for ours, torchs in zip(one_pass, values_and_gradient(x, grid, grad), strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, torchs)


def test_a_gradient_that_is_not_finite_is_multiplied_as_torch_does() -> None:
    grid = qparams(torch.tensor(-1.0), torch.tensor(1.0), INT8)
    grad = torch.tensor([np.inf, np.nan, np.inf, -2.0])
    _, gradient = values_and_gradient(torch.tensor([0.5, 0.5, 3.0, 3.0]), grid, grad)
    np.testing.assert_array_equal(gradient, [np.inf, np.nan, np.nan, -0.0])


def test_x_is_neither_written_into_nor_shared() -> None:
    x = normal(100)
    before = x.clone()
    fake_quantize(x, qparams(torch.tensor(-1.0), torch.tensor(1.0), INT8)).fill_(7)
    assert torch.equal(x, before)


def test_gradients_of_gradients_go_through() -> None:
    x = torch.tensor([0.5, 3.0], requires_grad=True)
    grid = qparams(torch.tensor(-1.0), torch.tensor(1.0), INT8)
    (first,) = torch.autograd.grad((fake_quantize(x, grid) * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [2.0, 0.0]


def test_a_grid_of_other_channels_is_refused_not_read_past_its_end() -> None:
    grid = qparams(-torch.ones(3), torch.ones(3), QuantSpec(keep_axis=0))
    with pytest.raises(RuntimeError, match="must match"):
        fake_quantize(normal(4, 5), grid)


# ---- where torch's operators stay


class Labelled(Tensor):
    """A subclass of Tensor."""


def test_tensors_that_a_kernel_cannot_read_are_left_to_torch() -> None:
    x = normal(4, 6)
    assert kernels.suit(x)
    others = [
        x.double(),
        x.half(),
        x.to("meta"),
        x.T,
        x[:, ::2],
        x[:0],
        x.clone().requires_grad_(),
        x.as_subclass(Labelled),
        torch.nn.Parameter(x),
    ]
    assert [kernels.suit(each) for each in others] == [False] * len(others)


def test_small_tensors_and_many_threads_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(10)
    monkeypatch.setattr(kernels, "SMALLEST", 10)
    assert kernels.suit(x)
    assert not kernels.suit(x[:9])
    monkeypatch.setattr(torch, "get_num_threads", lambda: kernels.MOST_THREADS + 1)
    assert not kernels.suit(x)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap over clamp_
def test_whoever_follows_torchs_operators_sees_them() -> None:
    x, grid = normal(10), qparams(torch.tensor(-1.0), torch.tensor(1.0), UINT8)
    expected = fake_quantize(x, grid)
    followed: list[bool] = []

    def both(x: Tensor) -> Tensor:
        followed.append(not kernels.unwatched())
        return fake_quantize(x, grid)

    traced = torch.jit.trace(both, x, check_trace=False)
    assert torch.equal(traced(x), expected)
    assert torch.equal(torch.vmap(both)(x), expected)
    with FlopCounterMode(display=False):
        assert torch.equal(both(x), expected)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert both(x).shape == x.shape
    assert len(followed) >= 4
    assert all(followed)
    assert kernels.unwatched()


def test_compiled_code_has_torchs_operators_in_it() -> None:
    x, grid = normal(10), qparams(torch.tensor(-1.0), torch.tensor(1.0), UINT8)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: fake_quantize(x, grid), backend=backend, fullgraph=True)
    assert torch.equal(compiled(x), fake_quantize(x, grid))
    assert any("round_" in name for name in seen)
    torch._dynamo.reset()


@pytest.mark.parametrize("absence", ["not installed", "told not to compile"])
def test_without_numba_the_bits_are_the_same(absence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = normal(40, 40), normal(40, 40).T.contiguous()
    grid = qparams(torch.tensor(-1.3), torch.tensor(1.7), UINT8)
    one_pass = values_and_gradient(x, grid, grad)
    compiling.numba.cache_clear()
    if absence == "not installed":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    try:
        assert not kernels.suit(x)
        for ours, torchs in zip(one_pass, values_and_gradient(x, grid, grad), strict=True):
            assert torch.equal(ours.view(torch.int32), torchs.view(torch.int32))
    finally:
        compiling.numba.cache_clear()
