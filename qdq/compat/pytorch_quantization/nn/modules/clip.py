"""Clip: limits as a module, fixed or learned."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from qdq.compat.pytorch_quantization.nn.functional import clip


class Clip(nn.Module):
    """Holds x between two limits, each of which may be a parameter.

    Args:
        clip_value_min: lowest value, in the unit of x. Fixed, it broadcasts against x; learned, it
            is a number or an array of one.
        clip_value_max: highest value, likewise.
        learn_min: the lower limit is a parameter.
        learn_max: the upper limit is a parameter.

    Raises:
        ValueError: a limit to be learned is a tensor, or more than one number.
    """

    clip_value_min: Tensor
    clip_value_max: Tensor

    def __init__(
        self,
        clip_value_min: ArrayLike | Tensor,
        clip_value_max: ArrayLike | Tensor,
        learn_min: bool = False,
        learn_max: bool = False,
    ) -> None:
        super().__init__()
        for name, value, learn in (
            ("clip_value_min", clip_value_min, learn_min),
            ("clip_value_max", clip_value_max, learn_max),
        ):
            if learn:
                self.register_parameter(name, nn.Parameter(torch.tensor(_scalar(name, value))))
            else:
                fixed = torch.as_tensor(value, dtype=torch.float32)
                self.register_buffer(name, fixed, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape -> the same shape, within the limits."""
        return clip(inputs, self.clip_value_min, self.clip_value_max)


def _scalar(name: str, value: ArrayLike | Tensor) -> float:
    if isinstance(value, Tensor) or np.size(value) != 1:
        raise ValueError(
            f"learnable {name} must be scalar: a float or an array of one, got {value!r}"
        )
    return float(np.asarray(value).reshape(()))
