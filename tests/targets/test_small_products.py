"""Products too small to gain from integers: left float where the target asks for it."""

import pytest
import torch
from torch import nn

import qdq

TENSORRT = qdq.targets.get("tensorrt", skip_small=True)


def why(layer: nn.Module, *shape: int, first: bool = False) -> str:
    """Why the layer is float, behind another or as the first of its net; empty if it is not."""
    model = nn.Sequential(nn.Identity() if first else nn.Softmax(1), layer).eval()
    report = qdq.insert(model, torch.zeros(shape), target=TENSORRT)
    row = next(row for row in report.rows if row.name == "1.weight")
    return "" if row.action == "quantize" else row.why


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Linear(15, 64), (2, 15), "a 15 x 64 product is too small to gain (T18)"),
        (nn.Linear(64, 2), (2, 64), "a 64 x 2 product is too small to gain (T18)"),
        (nn.Conv2d(8, 8, 3), (1, 8, 5, 5), "8 to 8 channels are too few to gain (T19)"),
        (nn.Conv2d(32, 8, (1, 3)), (1, 32, 5, 5), "32 to 8 channels are too few to gain (T19)"),
        (nn.Conv2d(18, 6, 3), (1, 18, 5, 5), "18 to 6 channels are too few to gain (T19)"),
        (
            nn.Conv2d(32, 32, 1, groups=32),
            (1, 32, 5, 5),
            "1 to 32 channels are too few to gain (T19)",
        ),
    ],
)
def test_a_small_product_is_left_float_with_the_reason(
    layer: nn.Module, shape: tuple[int, ...], reason: str
) -> None:
    assert why(layer, *shape) == reason


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(16, 16), (2, 16)),
        (nn.Conv2d(16, 16, 3), (1, 16, 5, 5)),
        (nn.Conv2d(32, 8, 3), (1, 32, 5, 5)),
        (nn.Conv2d(24, 6, 1), (1, 24, 5, 5)),
        (nn.Conv2d(32, 32, 3, groups=32), (1, 32, 5, 5)),
    ],
)
def test_one_that_is_large_enough_is_quantized(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert why(layer, *shape) == ""


def test_the_first_convolution_needs_only_one_side_in_eights() -> None:
    assert why(nn.Conv2d(3, 8, 3), 1, 3, 5, 5) != ""
    assert why(nn.Conv2d(3, 8, 3), 1, 3, 5, 5, first=True) == ""


def test_without_the_option_all_are_quantized() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3)).eval()
    report = qdq.insert(model, torch.zeros(1, 3, 5, 5), target="tensorrt")
    assert {row.action for row in report.select("quantize")} == {"quantize"}
    assert qdq.quantizers(model)["0.weight"].on
