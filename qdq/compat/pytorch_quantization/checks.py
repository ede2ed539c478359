"""What no grid holds is refused here, where reading numbers harms nobody.

While a compiler, an exporter or a CUDA graph looks on, Python must not branch on data: there the
arithmetic runs unchecked.
"""

import torch
from torch import Tensor

FP16_LARGEST = torch.finfo(torch.float16).max


def check_signs(inputs: Tensor, amax: Tensor, unsigned: bool) -> None:
    """Refuse negative ranges and negative values without a code, in one wait for the device.

    Args:
        inputs: any shape.
        amax: any shape.
        unsigned: whether codes start at 0.

    Raises:
        ValueError: a negative amax.
        TypeError: a negative value of `inputs` where codes are unsigned.
    """
    if not _values_are_readable(inputs):
        return
    bad = (amax < 0).any()
    if unsigned:
        bad = bad.to(inputs.device) | (inputs < 0).any()
    if not bad:
        return
    if (amax < 0).any():
        raise ValueError("Negative values in amax: a range is the largest |x|, pass x.abs().max()")
    raise TypeError(
        "Negative values encountered in unsigned quantization. Pass unsigned=False, or quantize "
        "what comes out of the ReLU"
    )


def check_fits_fp16(scale: Tensor, amax: Tensor) -> None:
    """Refuse a scale that fp16 cannot hold.

    Args:
        scale: codes per unit of x, any shape.
        amax: the range it came from.

    Raises:
        ValueError: it is larger than 65504.
    """
    if _values_are_readable(scale) and bool((scale > FP16_LARGEST).any()):
        raise ValueError(
            f"scale is too large for FP16 with amax={amax.tolist()}: pass x.float(), or a larger "
            "amax"
        )


def _values_are_readable(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
