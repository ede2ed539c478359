"""LeNet-5: shapes, names, and the committed weights against what their README states."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.lenet import LeNet, lenet_digits

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "weights"
DIGITS = WEIGHTS / "lenet_digits.safetensors"


def stated(pattern: str) -> str:
    """The one group of `pattern` in the weights' README."""
    found = re.search(pattern, (WEIGHTS / "README.md").read_text(encoding="utf-8"))
    assert found, f"models/weights/README.md has nothing like {pattern!r}"
    return found[1]


@pytest.mark.parametrize("relu_head", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("size", [32, 28])
def test_an_image_of_either_size_gives_ten_logits(
    size: int, batch_norm: bool, relu_head: bool
) -> None:
    model = LeNet(input_size=size, batch_norm=batch_norm, relu_head=relu_head).eval()
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize("size", [32, 28])
def test_c5_sees_maps_of_its_own_size(size: int) -> None:
    model = LeNet(input_size=size).eval()
    maps = model.s4(model.c3(model.s2(model.c1(torch.zeros(1, 1, size, size)))))
    assert maps.shape == (1, 16, 5, 5)


def test_another_size_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="input_size=30 does not fit LeNet-5") as caught:
        LeNet(input_size=30)
    assert "\n  fix: pass input_size=32 or input_size=28" in str(caught.value)


@pytest.mark.parametrize("relu_head", [True, False])
def test_without_batch_norm_the_keys_are_those_of_the_five_layers(relu_head: bool) -> None:
    layers = ("c1", "c3", "c5", "f6", "output")
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(LeNet(relu_head=relu_head).state_dict()) == expected


@torch.no_grad()
@pytest.mark.parametrize("relu_head", [True, False])
def test_only_with_relu_head_is_nothing_below_zero_at_the_output_layer(relu_head: bool) -> None:
    torch.manual_seed(0)
    model, seen = LeNet(relu_head=relu_head).eval(), []
    model.output.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.rand(4, 1, 32, 32))
    assert bool((seen[0] >= 0).all()) == relu_head


def test_the_committed_weights_are_the_file_the_readme_names() -> None:
    assert hashlib.sha256(DIGITS.read_bytes()).hexdigest() == stated(r"sha256 \| `(\w{64})`")


def test_the_network_has_the_parameters_the_readme_counts() -> None:
    count = sum(p.numel() for p in lenet_digits().parameters())
    assert f"{count:,}" == stated(r"batch norm, ([\d,]+) parameters")


def test_the_committed_weights_reach_the_stated_accuracy() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    data = datasets.load_digits()
    model = lenet_digits().eval()
    model.load_state_dict(load_file(DIGITS))
    images = torch.tensor(data.images[::3] / 16, dtype=torch.float32)
    pixels = torch.kron(images, torch.ones(4, 4))[:, None]  # each pixel becomes a 4x4 block
    assert pixels.shape == (599, 1, 32, 32)
    with torch.no_grad():
        right = model(pixels).argmax(1) == torch.tensor(data.target[::3])
    percent = 100 * float(right.float().mean())
    assert percent >= float(stated(r"test accuracy \| ([\d.]+) %")) - 0.2
