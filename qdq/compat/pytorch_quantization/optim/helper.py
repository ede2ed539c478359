"""Parameters chosen by regular expressions on their names: for an optimizer, to be frozen."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from qdq.compat.pytorch_quantization.utils.quant_logging import logger


def match_parameters(model: nn.Module, patterns: Sequence[str]) -> Iterator[nn.Parameter]:
    """Parameters whose name a pattern is found in; once per pattern that is.

    Args:
        model: where they are looked for.
        patterns: regular expressions, for `re.search`.
    """
    for name, parameter in model.named_parameters():
        for pattern in patterns:
            if re.search(pattern, name):
                yield parameter


def group_parameters(
    model: nn.Module,
    patterns_list: Sequence[Sequence[str]],
    lrs: Sequence[float] | None = None,
    momentums: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups that an optimizer of torch.optim takes.

    Args:
        model: whose parameters.
        patterns_list: for each group its patterns, see `match_parameters`.
        lrs: learning rate of each group; None: the optimizer's.
        momentums: likewise.
        weight_decays: likewise.

    Returns:
        A dict per group: `params`, a generator, and those of `lr`, `momentum` and `weight_decay`
        that were given.

    Raises:
        TypeError: a group that is no list of patterns, or a list of another length.
    """
    for patterns in patterns_list:
        if not isinstance(patterns, list | tuple):
            raise TypeError(f"patterns_list must be list of list of patterns, has {patterns!r}")
    options = {"lr": lrs, "momentum": momentums, "weight_decay": weight_decays}
    given = {key: values for key, values in options.items() if values is not None}
    for key, values in given.items():
        if len(values) != len(patterns_list):
            raise TypeError(
                f"len({key}s) must match len(patterns_list), {len(values)} != {len(patterns_list)}"
            )
    return [
        {"params": match_parameters(model, patterns)}
        | {key: values[index] for key, values in given.items()}
        for index, patterns in enumerate(patterns_list)
    ]


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take gradients away from the parameters whose name a pattern is found in.

    Args:
        model: changed in place.
        patterns: regular expressions, for `re.search`.
    """
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            logger.warning("freeze %s", name)
            parameter.requires_grad = False


@torch.no_grad()
def quant_weight_inplace(model: nn.Module) -> None:
    """Write each weight's quantized values into the weight.

    Args:
        model: its modules with a `weight_quantizer` that fake-quantizes are changed in place.
    """
    for module in model.modules():
        quantizer = getattr(module, "weight_quantizer", None)
        weight = getattr(module, "weight", None)
        if quantizer is not None and weight is not None and quantizer.fake_quant:
            weight.copy_(quantizer(weight))
