"""Which parameters are trained, and everything else put back to what it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from qdq.data import device_of
from qdq.errors import PolicyError
from qdq.sites import Matcher, Patterns


def choose_parameters(model: nn.Module, trainable: Patterns) -> dict[str, nn.Parameter]:
    """Name -> parameter to train, each once; what the user has frozen stays frozen.

    Args:
        model: whose `requires_grad` flags say what is frozen.
        trainable: a glob, `re:...`, a class, a callable(name, module), or several: of the
            parameter, or of a module it lies in.

    Raises:
        PolicyError: a pattern fits no parameter, or all that they fit are frozen.
    """
    modules = dict(model.named_modules())
    matcher = Matcher(trainable, what="trainable")
    names = dict(model.named_parameters(remove_duplicate=False))  # a tied one has several names
    fitting = {name: each for name, each in names.items() if matcher.find(name, modules)}
    matcher.refuse_idle(names)
    chosen: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in fitting.items():
        if parameter.requires_grad:
            chosen.setdefault(id(parameter), (name, parameter))
    if not fitting:
        raise PolicyError(
            "there is nothing to train: no parameter was named",
            fix="pass trainable='*', or patterns of layers and parameters",
        )
    if not chosen:
        raise PolicyError(
            "there is nothing to train: requires_grad is False for all that trainable= fits",
            at=", ".join(list(fitting)[:4]),
            fix="call parameter.requires_grad_(True), or name other parameters",
        )
    return dict(chosen.values())


@contextmanager
def only_these_learn(model: nn.Module, chosen: dict[str, nn.Parameter]) -> Iterator[None]:
    """Gradients for `chosen` alone; then flags, gradients, modes and device are what they were."""
    learning = {id(parameter) for parameter in chosen.values()}
    flags = [(each, each.requires_grad, each.grad) for each in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    try:
        for parameter, _, _ in flags:
            parameter.requires_grad_(id(parameter) in learning)
            parameter.grad = None
        yield
    finally:
        for parameter, flag, _ in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        if device_of(model) != device:  # Lightning leaves a model on the CPU
            model.to(device)
        for parameter, _, gradient in flags:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
