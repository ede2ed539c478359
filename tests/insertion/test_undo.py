"""All of a change to a model, or nothing."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack, _pop_mode
from torch.utils._device import DeviceContext

from qdq.insertion.undo import atomic


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


def not_saved(net: Any) -> None:
    net[1][0]._non_persistent_buffers_set.add("running_mean")


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
    not_saved,
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
            set(module._non_persistent_buffers_set),
            getattr(module, "in_features", None),
        )
        for name, module in net.named_modules()
    ]


def make(model: Any, *changes: Any, error: type[BaseException] | None = None) -> None:
    before = state(model)
    for change in changes:
        change(model)
    assert state(model) != before
    if error:
        raise error


@pytest.mark.parametrize("change", CHANGES)
def test_an_exception_undoes_every_kind_of_change(change: Any) -> None:
    net = model()
    before = state(net)
    with pytest.raises(Failure):
        atomic(make)(net, change, error=Failure)
    assert state(net) == before


@pytest.mark.parametrize("change", CHANGES)
def test_without_an_exception_the_change_stays(change: Any) -> None:
    net = model()
    before = state(net)
    atomic(make)(net, change)
    assert state(net) != before


def test_all_changes_together_are_undone() -> None:
    net = model()
    before = state(net)
    with pytest.raises(Failure):
        atomic(make)(net, *(set(CHANGES) - {fewer_children, other_child}), error=Failure)
    assert state(net) == before


def test_an_exception_undoes_what_was_done_to_the_modes_of_torch() -> None:
    @atomic
    def leave_modes(model: nn.Module) -> None:
        torch.set_grad_enabled(False)
        _pop_mode()
        torch.device("meta").__enter__()
        raise Failure

    outer = DeviceContext(torch.device("cpu"))
    with outer:
        before = _get_current_function_mode_stack()
        assert before[-1] is outer
        with pytest.raises(Failure):
            leave_modes(model())
        after = _get_current_function_mode_stack()
        assert all(now is then for now, then in zip(after, before, strict=True))
        assert torch.is_grad_enabled()


@atomic
def freeze(model: nn.Module) -> None:
    model.eval()
    raise Failure


def test_the_model_may_be_given_by_name() -> None:
    net = model()
    before = state(net)
    with pytest.raises(Failure):
        freeze(model=net)
    assert state(net) == before


def test_the_function_itself_says_what_is_wrong_with_its_arguments() -> None:
    with pytest.raises(TypeError, match=r"freeze\(\) missing 1 required positional argument"):
        freeze()  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="'str' object has no attribute 'eval'"):
        freeze("a name")  # type: ignore[arg-type]


def test_what_the_function_gives_and_says_of_itself_is_kept() -> None:
    @atomic
    def name(model: nn.Module, *, loud: bool = False) -> str:
        """Says who it is."""
        return "NET" if loud else "net"

    assert name(model(), loud=True) == "NET"
    assert name.__doc__ == "Says who it is."
    assert list(inspect.signature(name).parameters) == ["model", "loud"]
