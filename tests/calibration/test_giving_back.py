"""calibrate gives the model back as it was, also after an error or an interrupt anywhere."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from input_nets import Net, Range, calibrated, net, pairs, ranges
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

import qdq
from qdq.errors import InputError
from qdq.numerics.thresholds import METHODS


def state(model: nn.Module) -> Any:
    """Everything a user could notice, in plain values; ranges and histograms left out."""
    return (
        [
            (name, p.tolist(), p.requires_grad, None if p.grad is None else p.grad.tolist())
            for name, p in model.named_parameters()
        ],
        [(name, b.tolist()) for name, b in model.named_buffers() if "quantizer" not in name],
        [
            (type(each), each.training, sorted(set(vars(each)) - {"_qdq_histograms"}))
            for each in model.modules()
        ],
        [
            (list(each._forward_hooks), list(each._forward_pre_hooks), list(each._backward_hooks))
            for each in model.modules()
        ],
        [(q.observer, q.enabled, q.active, q.spec) for q in qdq.quantizers(model).values()],
        [type(mode) for mode in _get_current_function_mode_stack()],
        (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads()),
    )


def worn() -> Net:
    """A model with gradients, a frozen layer, a hook of the user's and a site switched off."""
    model = net()
    calibrated(model, [(pair, None) for pair in pairs()])
    model(*pairs()[0]).sum().backward()
    model.stem.requires_grad_(False)
    model.conv.register_forward_hook(lambda _module, _args, result: result)
    qdq.disable_quantization(model, "head")
    return model


def test_a_model_in_use_is_given_back_as_it_was() -> None:
    model = worn()
    before = state(model)
    calibrated(model, [(pair, None) for pair in pairs(2)])
    assert state(model) == before


def wide() -> list[tuple[Tensor, Tensor]]:
    """Batches that would widen every range."""
    return [(x * 50, gate * 50) for x, gate in pairs(3)]


def data_fails(error: BaseException) -> Iterator[object]:
    yield wide()[0], None
    raise error


def failing_data(model: nn.Module, error: BaseException) -> None:
    calibrated(model, data_fails(error))


def failing_step(model: nn.Module, error: BaseException) -> None:
    def step(run: nn.Module, batch: Any) -> None:
        run(*batch)
        raise error

    calibrated(model, wide(), step=step)


def failing_layer(model: nn.Module, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    handle = model.get_submodule("norm").register_forward_pre_hook(fail)
    try:
        calibrated(model, [(pair, None) for pair in wide()])
    finally:
        handle.remove()


def failing_search(model: nn.Module, error: BaseException) -> None:
    """The second site's range is never chosen."""
    asked: list[object] = []

    def choose(hist: Any, _grid: object) -> Range:
        asked.append(hist)
        if len(asked) == 2:
            raise error
        return hist.amin, hist.amax

    METHODS["failing"] = choose
    try:
        qdq.calibrate(model, [(pair, None) for pair in wide()], method="failing", progress=False)
    finally:
        del METHODS["failing"]


@pytest.mark.parametrize("error", [RuntimeError("cable"), KeyboardInterrupt("cable")])
@pytest.mark.parametrize(
    "fail",
    [
        failing_data,
        failing_step,
        failing_layer,
        failing_search,
    ],
)
def test_it_is_given_back_too_after_an_error_or_an_interrupt_anywhere(
    fail: Callable[[nn.Module, BaseException], None], error: BaseException
) -> None:
    model = worn()
    before, held = state(model), ranges(model)
    outputs = model(*pairs()[1]).tolist()
    with pytest.raises((InputError, type(error)), match="cable"):
        fail(model, error)
    assert state(model) == before
    assert ranges(model) == held
    assert model(*pairs()[1]).tolist() == outputs
    qdq.choose_ranges(model, "max")  # from the histograms of before
    assert ranges(model) == held
