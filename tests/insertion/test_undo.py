"""All of a change to a model, or nothing."""

from typing import Any

import pytest
import torch
from torch import nn

from qdq.insertion.undo import all_or_nothing


class Failure(BaseException):
    """Not even an Exception: as a keyboard interrupt."""


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))


def other_data(net: Any) -> None:
    net[0].weight.data = torch.zeros(2, 2)


def other_parameter(net: Any) -> None:
    net[0].bias = nn.Parameter(torch.zeros(2))


def no_parameter(net: Any) -> None:
    net[0].bias = None


def other_buffer(net: Any) -> None:
    net[1][0].running_mean = torch.ones(2)


def new_buffer(net: Any) -> None:
    net[0].register_buffer("scale", torch.ones(()))


def other_class(net: Any) -> None:
    net[0].__class__ = type("Other", (nn.Linear,), {})


def other_child(net: Any) -> None:
    net[1][0] = nn.Identity()


def new_child(net: Any) -> None:
    net[0].quantizer = nn.Identity()


def fewer_children(net: Any) -> None:
    del net[1]


def new_attribute(net: Any) -> None:
    net.note = "half done"
    net[0].in_features = 99


def new_hook(net: Any) -> None:
    net[0].register_forward_hook(lambda *_: None)


def other_mode(net: Any) -> None:
    net.eval()


CHANGES = [
    other_data,
    other_parameter,
    no_parameter,
    other_buffer,
    new_buffer,
    other_class,
    other_child,
    new_child,
    fewer_children,
    new_attribute,
    new_hook,
    other_mode,
]


def state(net: nn.Module) -> list[Any]:
    """Everything a module is, compared by identity where it is an object and by value else."""
    return [
        (
            name,
            id(module),
            type(module),
            sorted(vars(module)),
            module.training,
            {
                key: (id(each), each.tolist())
                for key, each in module.named_parameters(recurse=False)
            },
            {key: id(each) for key, each in module.named_buffers(recurse=False)},
            {key: id(each) for key, each in module.named_children()},
            list(module._forward_hooks),
            getattr(module, "in_features", None),
        )
        for name, module in net.named_modules()
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_an_exception_undoes_every_kind_of_change(change: Any) -> None:
    net = model()
    before = state(net)
    with pytest.raises(Failure), all_or_nothing(net):  # noqa: PT012
        change(net)
        assert state(net) != before
        raise Failure
    assert state(net) == before


@pytest.mark.parametrize("change", CHANGES)
def test_without_an_exception_the_change_stays(change: Any) -> None:
    net = model()
    before = state(net)
    with all_or_nothing(net):
        change(net)
    assert state(net) != before


def test_all_changes_together_are_undone() -> None:
    net = model()
    before = state(net)
    with pytest.raises(Failure), all_or_nothing(net):  # noqa: PT012
        for change in CHANGES:
            if change not in (fewer_children, other_child):
                change(net)
        raise Failure
    assert state(net) == before
