"""Quantized pools against windows taken in numpy."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdq.errors import CalibrationError
from qdq.insertion.placing import retarget
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers
from qdq.nn import (
    QuantAdaptiveAvgPool1d,
    QuantAdaptiveAvgPool2d,
    QuantAdaptiveAvgPool3d,
    QuantAvgPool1d,
    QuantAvgPool2d,
    QuantAvgPool3d,
    QuantMaxPool1d,
    QuantMaxPool2d,
    QuantMaxPool3d,
    TensorQuantizer,
)
from qdq.nn.twins import TWINS
from qdq.spec import QuantSpec

AMAX = 1.7
SCALE = np.float32(AMAX) / np.float32(127)
AVERAGE = {1: QuantAvgPool1d, 2: QuantAvgPool2d, 3: QuantAvgPool3d}
ADAPTIVE = {1: QuantAdaptiveAvgPool1d, 2: QuantAdaptiveAvgPool2d, 3: QuantAdaptiveAvgPool3d}
LARGEST = {1: QuantMaxPool1d, 2: QuantMaxPool2d, 3: QuantMaxPool3d}
FLOATS = {
    QuantAvgPool1d: nn.AvgPool1d,
    QuantAvgPool2d: nn.AvgPool2d,
    QuantAvgPool3d: nn.AvgPool3d,
    QuantAdaptiveAvgPool1d: nn.AdaptiveAvgPool1d,
    QuantAdaptiveAvgPool2d: nn.AdaptiveAvgPool2d,
    QuantAdaptiveAvgPool3d: nn.AdaptiveAvgPool3d,
    QuantMaxPool1d: nn.MaxPool1d,
    QuantMaxPool2d: nn.MaxPool2d,
    QuantMaxPool3d: nn.MaxPool3d,
}
POOLS = list(FLOATS)
AVERAGES = [each for each in POOLS if "Avg" in each.__name__]


def built(pool_class: Any, *args: Any, **options: Any) -> Any:
    pool = pool_class(*(args or (2,)), **options)
    pool._input_quantizer.set_range(None, AMAX)
    return pool


def data(pool_class: Any) -> Tensor:
    sides = (6, 5, 7)[: int(pool_class.__name__[-2])]
    return torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))


def rounded(x: Tensor) -> NDArray[np.float32]:
    steps = np.rint(x.detach().float().numpy() / SCALE)
    return np.clip(steps, -128, 127).astype(np.float32) * SCALE


def pooled(
    x: NDArray[Any], spans: list[list[slice]], reduce: Callable[..., Any]
) -> NDArray[np.float64]:
    """One number per window; `spans` holds the windows along each side."""
    result = np.zeros((*x.shape[:2], *(len(each) for each in spans)))
    for at in itertools.product(*(range(len(each)) for each in spans)):
        window = x[(..., *(along[index] for along, index in zip(spans, at, strict=True)))]
        result[(..., *at)] = reduce(window.reshape(*x.shape[:2], -1), axis=2)
    return result


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_average_pool_is_the_mean_of_rounded_windows(rank: int) -> None:
    pool, x = built(AVERAGE[rank], 3, 2), data(AVERAGE[rank])
    spans = [
        [slice(2 * at, 2 * at + 3) for at in range((side - 3) // 2 + 1)] for side in x.shape[2:]
    ]
    np.testing.assert_allclose(pool(x), pooled(rounded(x), spans, np.mean), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_adaptive_pool_is_the_mean_of_equal_parts(rank: int, count: int) -> None:
    pool, x = built(ADAPTIVE[rank], count), data(ADAPTIVE[rank])
    spans = [
        [slice(at * side // count, -(-(at + 1) * side // count)) for at in range(count)]
        for side in x.shape[2:]
    ]
    np.testing.assert_allclose(pool(x), pooled(rounded(x), spans, np.mean), atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_max_pool_is_the_largest_of_rounded_windows_and_commutes_with_rounding(rank: int) -> None:
    pool, x = built(LARGEST[rank], 3, 2), data(LARGEST[rank])
    spans = [
        [slice(2 * at, 2 * at + 3) for at in range((side - 3) // 2 + 1)] for side in x.shape[2:]
    ]
    np.testing.assert_array_equal(pool(x), pooled(rounded(x), spans, np.max))
    plain = FLOATS[LARGEST[rank]](3, 2)
    np.testing.assert_array_equal(pool(x), rounded(plain(x)))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "count_include_pad": False},
        {"stride": 1, "ceil_mode": True},
        {"stride": 2, "ceil_mode": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_option_does_what_it_does_in_the_float_pool(
    rank: int, options: dict[str, Any]
) -> None:
    for pool_class in (AVERAGE[rank], LARGEST[rank]):
        if pool_class is LARGEST[rank]:
            options = {key: each for key, each in options.items() if key != "count_include_pad"}
        x = data(pool_class)
        plain = FLOATS[pool_class](3, **options)
        assert torch.equal(built(pool_class, 3, **options)(x), plain(torch.from_numpy(rounded(x))))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_max_pool_gives_indices_where_asked(rank: int) -> None:
    x = data(LARGEST[rank])
    values, indices = built(LARGEST[rank], 2, return_indices=True)(x)
    wanted = FLOATS[LARGEST[rank]](2, return_indices=True)(torch.from_numpy(rounded(x)))
    assert torch.equal(values, wanted[0])
    assert torch.equal(indices, wanted[1])


@pytest.mark.parametrize("pool_class", POOLS)
def test_a_quantized_pool_is_its_float_class_with_one_quantizer(pool_class: Any) -> None:
    pool = built(pool_class)
    assert isinstance(pool, FLOATS[pool_class])
    assert [type(each) for each in pool.children()] == [TensorQuantizer]
    assert pool.kind == ("avg_pool" if pool_class in AVERAGES else "max_pool")
    spec = QuantSpec(bits=4)
    assert pool_class(2, input_spec=spec)._input_quantizer.spec is spec


@pytest.mark.parametrize("pool_class", POOLS)
def test_average_pools_are_twins_and_max_pools_are_not(pool_class: Any) -> None:
    expected = pool_class if pool_class in AVERAGES else None
    assert TWINS.get(FLOATS[pool_class]) is expected


@pytest.mark.parametrize(
    ("pool_class", "dtype"),
    [
        *((each, torch.float64) for each in POOLS),
        *((each, torch.bfloat16) for each in POOLS if each is not QuantAvgPool3d),  # torch has none
    ],
)
def test_another_float_type_is_kept(pool_class: Any, dtype: torch.dtype) -> None:
    x = data(pool_class).to(dtype)
    result = built(pool_class)(x)
    assert result.dtype == dtype
    assert torch.equal(result, FLOATS[pool_class](2)(torch.from_numpy(rounded(x)).to(dtype)))


@pytest.mark.parametrize("pool_class", POOLS)
def test_a_float_pool_that_changes_its_class_computes_as_one_that_was_built(
    pool_class: Any,
) -> None:
    pool, x = FLOATS[pool_class](2), data(pool_class)
    pool.__class__ = pool_class
    pool.add_quantizers()
    pool._input_quantizer.set_range(None, AMAX)
    assert torch.equal(pool(x), built(pool_class)(x))
    assert torch.equal(pool(x[0]), pool(x)[0])


@pytest.mark.parametrize("pool_class", POOLS)
def test_its_state_is_its_range_and_a_float_pools_state_fits(pool_class: Any) -> None:
    pool, fresh, x = built(pool_class), pool_class(2), data(pool_class)
    assert set(pool.state_dict()) == {"_input_quantizer._amax"}
    fresh.load_state_dict(FLOATS[pool_class](2).state_dict(), strict=True)
    fresh.load_state_dict(pool.state_dict(), strict=True)
    assert torch.equal(fresh(x), pool(x))


@pytest.mark.parametrize("pool_class", POOLS)
def test_gradients_reach_what_lies_inside_the_range(pool_class: Any) -> None:
    x = data(pool_class).requires_grad_()
    built(pool_class)(x).sum().backward()
    x_fq = torch.from_numpy(rounded(x)).requires_grad_()
    FLOATS[pool_class](2)(x_fq).sum().backward()
    assert x_fq.grad is not None
    assert bool((x.abs() > AMAX).any())
    assert torch.equal(x.grad, x_fq.grad * (x.abs() <= AMAX))


@pytest.mark.parametrize("pool_class", POOLS)
def test_switched_off_it_is_the_float_pool_and_without_a_range_an_error(pool_class: Any) -> None:
    pool, x = pool_class(2), data(pool_class)
    pool._input_quantizer.site = "pool.input"
    with pytest.raises(CalibrationError, match=r"no range yet\n  at:  pool\.input\n  fix: run"):
        pool(x)
    pool._input_quantizer.enabled = False
    assert torch.equal(pool(x), FLOATS[pool_class](2)(x))


def test_a_printed_pool_shows_its_own_arguments_and_its_grid() -> None:
    assert repr(built(QuantAvgPool2d, 3, 2)).splitlines() == [
        "QuantAvgPool2d(",
        "  kernel_size=3, stride=2, padding=0",
        "  (_input_quantizer): TensorQuantizer(int8 symmetric per-tensor, [-1.7, 1.7])",
        ")",
    ]


# ---- in a model


def on(model: nn.Module) -> set[str]:
    return {site for site, quantizer in quantizers(model).items() if quantizer.on}


@pytest.mark.parametrize("example", [torch.zeros(1, 1, 8, 8), None], ids=["recorded", "traced"])
def test_a_pool_between_two_products_is_quantized_for_either_target(example: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3)).eval()
    insert(model, example, target="tensorrt")
    assert type(model[2]) is QuantAvgPool2d
    inside = {"0.input", "0.weight", "2.input", "3.input", "3.weight"}
    assert on(model) == inside
    retarget(model, "onnxruntime")
    assert on(model) == inside | {"3.output"}


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_max_pool_written_by_hand_stays_on(target: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), QuantMaxPool2d(2), nn.Conv2d(2, 2, 3)).eval()
    insert(model, torch.zeros(1, 1, 8, 8), target=target)
    assert "1.input" in on(model)
