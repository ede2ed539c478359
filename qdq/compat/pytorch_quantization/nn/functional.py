"""`clip`: limits that may learn."""

from typing import Any

import torch
from torch import Tensor


class ClipFunction(torch.autograd.Function):
    """Element-wise limits with the gradients of PACT (Choi et al. 2018, arXiv:1805.06085)."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        input: Tensor,
        clip_value_min: Tensor | float,
        clip_value_max: Tensor | float,
    ) -> Tensor:
        """Values inside the limits, the limit elsewhere; the limits broadcast against x."""
        low, high = _beside(clip_value_min, input), _beside(clip_value_max, input)
        ctx.save_for_backward(input, low, high)
        return torch.minimum(torch.maximum(input, low), high)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of x strictly between the limits; of each limit, the sum over what it holds back.

        Raises:
            ValueError: a limit that learns is not one number.
        """
        grad = grads[0]
        x, low, high = ctx.saved_tensors  # type: ignore[attr-defined]
        _, low_learns, high_learns = ctx.needs_input_grad  # type: ignore[attr-defined]
        for limit, learns in ((low, low_learns), (high, high_learns)):
            if learns and limit.numel() != 1:
                raise ValueError(
                    f"Learnable min/max can only be scalar, got the shape {tuple(limit.shape)}"
                )
        zero = torch.zeros((), dtype=grad.dtype, device=grad.device)
        of_low = torch.where(x <= low, grad, zero).sum().view(low.shape) if low_learns else None
        of_high = torch.where(x >= high, grad, zero).sum().view(high.shape) if high_learns else None
        return torch.where((x > low) & (x < high), grad, zero), of_low, of_high

    @staticmethod
    def symbolic(g: Any, input: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
        """The nodes that stand for this call in the ONNX graph."""
        result = g.op("Min", g.op("Max", input, clip_value_min), clip_value_max)
        result.setType(input.type())
        return result


def clip(input: Tensor, min: Tensor | float, max: Tensor | float) -> Tensor:
    """Element-wise limits that may learn; see `ClipFunction` for their gradients.

    Args:
        input: any shape, in its unit.
        min: lowest value; broadcasts against `input`. One that learns is one number.
        max: highest value, likewise.

    Returns:
        Shape and unit of `input`.
    """
    return ClipFunction.apply(input, min, max)  # type: ignore[no-any-return, no-untyped-call]


def _beside(limit: Tensor | float, x: Tensor) -> Tensor:
    return limit.to(x) if isinstance(limit, Tensor) else x.new_tensor(limit)
