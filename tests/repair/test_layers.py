"""Patches times rows are the layer's own product; what is repaired, and what it is shown."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from repair_nets import LAYERS, batches, calibrated
from torch import Tensor, nn
from torch.nn.utils import prune

from qdq.errors import InputError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.nn.twins import TWINS
from qdq.repair.layers import (
    Reading,
    observe,
    patches,
    repairable,
    rows,
    unrolled,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def quantized(layer: Any) -> Any:
    layer.__class__ = TWINS[type(layer)]
    layer.add_quantizers()
    return layer


def along_channels(layer: Any, y: Tensor) -> Tensor:
    """(C_out, values)."""
    axis = -1 - len(getattr(layer, "kernel_size", ()))
    return y.movedim(axis, 0).reshape(y.shape[axis], -1)


def from_patches(layer: Any, x: Tensor) -> Tensor:
    """(groups * C_out, positions) in the order of the images."""
    weight = rows(layer, layer.weight.detach())
    groups, _, columns = weight.shape
    inner = patches(layer, x).reshape(-1, groups, columns)
    return torch.einsum("pgc,grc->grp", inner, weight).flatten(0, 1)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, Tensor]:
    rank, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    several = st.tuples(*[st.integers(1, 3)] * rank)
    options: dict[str, Any] = {
        "kernel_size": draw(several),
        "dilation": draw(several),
        "stride": draw(several),
        "padding": draw(st.tuples(*[st.integers(0, 2)] * rank)),
        "groups": groups,
        "bias": False,
    }
    transposed = draw(st.booleans())
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(step, dilation) - 1))
            for step, dilation in zip(options["stride"], options["dilation"], strict=True)
        )
    else:
        options["padding_mode"] = draw(st.sampled_from(["zeros", "replicate", "circular"]))
        if draw(st.booleans()):
            options |= {"padding": "same", "stride": 1}
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = (TRANSPOSED if transposed else CONVS)[rank](4, 8, **options)
    size = draw(st.tuples(*[st.integers(7, 9)] * rank))
    return layer, torch.randn(*draw(st.sampled_from([(), (1,), (3,)])), 4, *size)


# torch says that it pads an even kernel by a copy, which is what is tested here.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@given(convolutions())
@settings(max_examples=40, deadline=None)
def test_patches_times_rows_are_what_the_convolution_gives(case: tuple[Any, Tensor]) -> None:
    layer, x = case
    wanted = layer(x).detach()
    layer = quantized(layer)
    found = from_patches(layer, x)
    torch.testing.assert_close(found, along_channels(layer, wanted), atol=1e-4, rtol=1e-4)


@given(convolutions())
@settings(max_examples=30, deadline=None)
def test_rows_unroll_to_the_weight(case: tuple[Any, Tensor]) -> None:
    layer = quantized(case[0])
    assert torch.equal(unrolled(layer, rows(layer, layer.weight)), layer.weight)


def test_patches_of_a_channels_last_input_are_the_same() -> None:
    layer, x = quantized(nn.Conv2d(4, 8, 3, bias=False)), batches()[0].repeat(1, 2, 1, 1)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patches(layer, last), patches(layer, x))


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 4, 5)])
def test_a_linear_layer_may_have_any_leading_sizes(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3, bias=False), torch.randn(shape)
    wanted = along_channels(layer, layer(x).detach())
    torch.testing.assert_close(from_patches(quantized(layer), x), wanted)


def test_layers_are_repaired_whose_products_are_quantized() -> None:
    model = calibrated()
    assert list(repairable(model)) == [f"{name}.input" for name in LAYERS]
    disable_quantization(model, ["stem.weight", "head"])
    assert list(repairable(model)) == ["depthwise.input", "plain.input", "up.input"]
    assert list(repairable(calibrated("onnxruntime"))) == [  # it has no integer ConvTranspose
        f"{name}.input" for name in LAYERS if name != "up"
    ]


def test_layers_that_share_a_weight_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    model[2].weight = model[0].weight
    insert(model, torch.ones(1, 4))
    assert list(repairable(model)) == ["1.input"]


@pytest.mark.parametrize(
    "computed",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        nn.utils.parametrizations.weight_norm,
    ],
)
def test_a_layer_whose_weight_is_computed_anew_is_left_alone(
    computed: Callable[[nn.Module], object],
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    insert(model, torch.ones(1, 4))
    computed(model[0])
    assert list(repairable(model)) == ["1.input"]


def test_observers_see_the_float_inputs_and_everything_is_put_back() -> None:
    model, seen = calibrated(), []
    hooked: list[Tensor] = []
    with disable_quantization(model), torch.no_grad():
        handle = model.head.register_forward_pre_hook(lambda _, args: hooked.append(args[0]))
        for batch in batches():
            model(batch)
        handle.remove()
    before = model(batches()[0])
    reading = Reading(batches(), progress=False)
    observe(model, {"head.input": lambda _site, x: seen.append(x)}, reading, "looking")
    assert all(torch.equal(a, b) for a, b in zip(seen, hooked, strict=True))
    assert torch.equal(model(batches()[0]), before)


def test_batches_may_be_few_and_run_by_the_users_own_step() -> None:
    model, seen = calibrated(), []
    data = [{"image": each} for each in batches()]
    reading = Reading(data, 2, step=lambda net, batch: net(batch["image"]), progress=False)  # type: ignore[index]
    observe(model, {"stem.input": lambda _site, x: seen.append(x)}, reading, "looking")
    assert all(torch.equal(a, b) for a, b in zip(seen, batches()[:2], strict=True))


def test_after_an_error_no_observer_stays() -> None:
    model = calibrated()
    reading = Reading([batches()[0], torch.zeros(1, 5)], progress=False)
    with pytest.raises(InputError, match=r"the model does not take inputs of shape \(1, 5\)"):
        observe(model, {"stem.input": lambda _site, x: None}, reading, "looking")
    assert all(each.observer is None for each in quantizers(model).values())
