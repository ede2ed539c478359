"""A folded layer equals the layer and its BatchNorm, computed apart in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from qdq.numerics.batchnorm import fold

C = 5


def statistics() -> dict[str, Tensor]:
    seeded = torch.Generator().manual_seed(0)
    return {
        "mean": torch.randn(C, generator=seeded),
        "variance": torch.rand(C, generator=seeded) + 0.1,
        "gamma": torch.randn(C, generator=seeded),
        "beta": torch.randn(C, generator=seeded),
    }


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_folded_layer_equals_layer_then_batchnorm(
    axis: int, affine: bool, has_bias: bool
) -> None:
    seeded, eps = torch.Generator().manual_seed(1), 1e-3
    weight = torch.randn((C, 3) if axis == 0 else (3, C), generator=seeded)
    bias = torch.randn(C, generator=seeded) if has_bias else None
    stats = statistics()
    mean, variance = stats["mean"], stats["variance"]
    gamma, beta = (stats["gamma"], stats["beta"]) if affine else (None, None)
    folded_weight, folded_bias = fold(
        weight,
        bias,
        mean=mean,
        variance=variance,
        eps=eps,
        gamma=gamma,
        beta=beta,
        channel_axis=axis,
    )

    x = np.random.default_rng(0).standard_normal((7, 3))
    matrix = weight.double().numpy()
    layer = x @ (matrix.T if axis == 0 else matrix)
    layer = layer + (0 if bias is None else bias.double().numpy())
    normal = (layer - mean.double().numpy()) / np.sqrt(variance.double().numpy() + eps)
    if affine:
        normal = normal * stats["gamma"].double().numpy() + stats["beta"].double().numpy()

    matrix = folded_weight.double().numpy()
    result = x @ (matrix.T if axis == 0 else matrix) + folded_bias.double().numpy()
    np.testing.assert_allclose(result, normal, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_type_of_the_weight_and_is_rounded_once(dtype: torch.dtype) -> None:
    weight = torch.randn(C, 3, 2, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    stats = statistics()
    folded_weight, folded_bias = fold(weight, None, eps=1e-5, channel_axis=0, **stats)
    wide = {name: tensor.double().numpy() for name, tensor in stats.items()}
    gain = wide["gamma"] / np.sqrt(wide["variance"] + 1e-5)
    expected = torch.from_numpy(weight.double().numpy() * gain[:, None, None, None]).to(dtype)
    shift = torch.from_numpy(-wide["mean"] * gain + wide["beta"]).to(dtype)
    assert folded_weight.dtype == folded_bias.dtype == dtype
    tight = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-12}
    torch.testing.assert_close(folded_weight, expected, **tight)
    torch.testing.assert_close(folded_bias, shift, **tight)


def test_the_eps_counts_where_the_variance_is_zero() -> None:
    weight, bias = fold(
        torch.ones(1, 1),
        torch.tensor([3.0]),
        mean=torch.tensor([1.0]),
        variance=torch.tensor([0.0]),
        eps=0.25,
        gamma=None,
        beta=None,
        channel_axis=0,
    )
    assert weight.item() == 2
    assert bias.item() == 4


def test_nothing_that_was_given_is_changed() -> None:
    weight, bias, stats = torch.ones(C, 2), torch.ones(C), statistics()
    before = {name: tensor.clone() for name, tensor in stats.items()}
    fold(weight, bias, eps=1e-5, channel_axis=0, **stats)
    assert torch.equal(weight, torch.ones(C, 2))
    assert torch.equal(bias, torch.ones(C))
    assert all(torch.equal(stats[name], before[name]) for name in stats)
