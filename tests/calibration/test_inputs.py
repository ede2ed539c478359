"""What calibrate takes: data of every kind, form, shape, memory order and type."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from input_nets import calibrated, net, pairs, ranges
from torch import Tensor, nn

import qdq
from qdq.data.opening import open_source
from qdq.data.sources import Request

RANDOM = np.random.default_rng(0)
COLOR = RANDOM.integers(3, 250, (8, 6, 5, 3), np.uint8)
GRAY = RANDOM.integers(3, 250, (8, 6, 5), np.uint8)
LABELS = np.arange(8)

# Every kind of data a recipe can name.


def pixelwise(channels: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 2, 1)).eval()
    qdq.insert(model, torch.zeros(1, channels, 4, 4))
    return model


def write_pack(path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    files = []
    for each in COLOR:
        file = io.BytesIO()
        image.fromarray(each).save(file, "png")
        files.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(path, blob=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, labels=LABELS)


def write_folder(root: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for index, each in enumerate(COLOR):
        (root / f"class{index % 2}").mkdir(exist_ok=True)
        image.fromarray(each).save(root / f"class{index % 2}" / f"{index}.png")


KINDS: dict[str, tuple[Callable[[Path], object], np.ndarray[Any, Any]]] = {
    "mnist": (lambda p: np.savez(p / "mnist_train.npz", images=GRAY, labels=LABELS), GRAY),
    "arrays": (lambda p: np.savez(p / "train.npz", images=COLOR, labels=LABELS), COLOR),
    "cifar10": (lambda p: write_pack(p / "cifar10_train10k_jpeg.npz"), COLOR),
    "imagenet": (lambda p: write_pack(p / "imagenet1k_one_per_class_224_q90.npz"), COLOR[::4]),
    "folder": (write_folder, COLOR),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_are_calibrated_as_they_are_fed(kind: str, tmp_path: Path) -> None:
    write, images = KINDS[kind]
    write(tmp_path)
    channels = 3 if images.ndim == 4 else 1
    asked = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    request = Request(split="train", batch_size=3, path=str(tmp_path), **asked)  # type: ignore[arg-type]
    found = calibrated(pixelwise(channels), open_source(kind, request))["0.input"]
    fed = (np.array([images.min(), images.max()], np.float32) / np.float32(255) - 0.5) / 0.25
    assert found == pytest.approx(tuple(fed.tolist()), rel=1e-6)


def test_the_digits_are_calibrated_too() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra 'demo'")
    request = Request(split="train", batch_size=64)
    assert calibrated(pixelwise(1), open_source("digits", request), batches=2)["0.input"] == (0, 1)


def test_a_function_of_the_users_is_calibrated_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_inputs.py").write_text(
        "import torch\n"
        "def make(split, size):\n"
        "    for index in range(3):\n"
        "        yield torch.full((size, 1, 4, 4), float(index)), torch.zeros(size)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_inputs", raising=False)
    data = open_source("my_inputs:make", Request(split="train", batch_size=2))
    assert calibrated(pixelwise(1), data)["0.input"] == (0.0, 2.0)


# Shapes, forms, memory and types.


def seen(model: nn.Module, layer: str, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    """All values that enter a layer, from a hook of torch's own, quantizers off."""
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, args: found.append(args[0].detach().float().reshape(-1))
    )
    with qdq.disable_quantization(model), torch.no_grad():
        for batch in data:
            model(*batch)
    handle.remove()
    return torch.cat(found)


def test_batches_may_have_other_shapes_each_time() -> None:
    model, data = net(), pairs(6, sides=(4, 9, 7))
    report = qdq.calibrate(model, [(pair, None) for pair in data], method="max", progress=False)
    rows = {row.site: row for row in report.rows}
    for layer in ("stem", "conv", "head"):
        values = seen(model, layer, data)
        row = rows[f"{layer}.input"]
        assert row.values == values.numel()
        assert (row.amin, row.amax) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize(
    "form",
    [
        lambda x, g: ((x, g), torch.zeros(len(x))),
        lambda x, g: ([x, g], None),
        lambda x, g: ({"gate": g, "x": x}, torch.zeros(len(x))),
        lambda x, g: {"gate": g, "x": x},
        lambda x, g: {"labels": torch.full((1,), float("nan")), "x": x, "gate": g},
    ],
)
def test_several_inputs_come_as_tuple_or_keywords(form: Callable[..., object]) -> None:
    wanted = calibrated(net(), pairs(), step=lambda model, batch: model(*batch))
    assert calibrated(net(), [form(*pair) for pair in pairs()]) == wanted


def test_step_gets_each_batch_as_the_data_gave_it_up_to_the_limit() -> None:
    data = [("name", *pair) for pair in pairs(5)]
    got: list[object] = []

    def step(model: nn.Module, batch: Any) -> None:
        got.append(batch)
        assert not torch.is_grad_enabled()
        model(batch[1], gate=batch[2])

    found = calibrated(net(), iter(data), step=step, batches=3)
    assert [each is given for each, given in zip(got, data, strict=False)] == [True] * 3
    assert found == calibrated(net(), [(pair, None) for pair in pairs(5)[:3]])


def test_the_device_may_be_named() -> None:
    data = [(pair, None) for pair in pairs()]
    wanted = calibrated(net(), data)
    for device in ("cpu", torch.device("cpu")):
        assert calibrated(net(), data, device=device) == wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_the_cpu_are_moved_to_a_model_on_the_gpu() -> None:
    data = [(pair, None) for pair in pairs()]
    model = net().cuda()
    assert calibrated(model, data)["stem.input"] == calibrated(net(), data)["stem.input"]
    held = {q.amax.device.type for q in qdq.quantizers(model).values() if q.amax is not None}
    assert held == {"cuda"}


def test_channels_last_batches_and_models_see_the_same_values() -> None:
    data = pairs()
    turned = [((x.contiguous(memory_format=torch.channels_last), g), None) for x, g in data]
    model = net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    report = qdq.calibrate(model, turned, method="max", progress=False)
    other = qdq.calibrate(net(), [(each, None) for each in data], method="max", progress=False)
    for mine, wanted in zip(report.rows, other.rows, strict=True):
        assert (mine.site, mine.values) == (wanted.site, wanted.values)
        assert (mine.amin, mine.amax) == pytest.approx(
            (wanted.amin, wanted.amax), rel=1e-4, abs=1e-6
        )
    values = seen(model, "stem", data)
    assert ranges(model)["stem.input"] == (float(values.min()), float(values.max()))


def test_strided_and_expanded_batches_see_the_same_values() -> None:
    x, gate = torch.randn(2, 2, 6, 12), torch.rand(1, 4)
    odd = [((x[..., ::2], gate.expand(2, 4)), None)]
    dense = [((x[..., ::2].contiguous(), gate.repeat(2, 1)), None)]
    assert calibrated(net(), odd) == calibrated(net(), dense)


def test_under_autocast_ranges_are_of_the_values_it_computes() -> None:
    model, data = net(), pairs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = calibrated(model, [(pair, None) for pair in data])
        values = seen(model, "conv", data)
    assert found["conv.input"] == (float(values.min()), float(values.max()))
    exact = seen(model, "conv", data)
    assert found["conv.input"] != (float(exact.min()), float(exact.max()))
    assert {q.amax.dtype for q in qdq.quantizers(model).values() if q.amax is not None} == {
        torch.float32
    }


def test_in_inference_mode_the_model_can_still_be_trained_later() -> None:
    model, (x, gate) = net(), pairs()[0]
    with torch.inference_mode():
        calibrated(model, [((x, gate), None)])
    model(x, gate).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
