"""Calls that the exporter does not know, written as matrix products while it traces."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qdq.nn.attention import attend

_ADAPTIVE = {
    F.adaptive_avg_pool1d: 1,
    F.adaptive_avg_pool2d: 2,
    F.adaptive_avg_pool3d: 3,
}


class Products(TorchFunctionMode):
    """Attention, which ONNX does not know, and adaptive pools whose windows are not alike."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attend(*args, **kwargs)
        if func in _ADAPTIVE:
            return _pool(func, *args, **kwargs)
        return func(*args, **kwargs)


def _pool(func: Any, input: Tensor, output_size: Any) -> Tensor:
    """The pool as it is where every window is as long as the others, else a product per axis."""
    dims = _ADAPTIVE[func]
    lengths = [int(length) for length in input.shape[-dims:]]
    wanted = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size] * dims
    sizes = [length if size is None else size for size, length in zip(wanted, lengths, strict=True)]
    if not any(length % size for length, size in zip(lengths, sizes, strict=True)):
        return func(input, output_size)  # type: ignore[no-any-return]
    for axis, (length, size) in enumerate(zip(lengths, sizes, strict=True), start=-dims):
        shares = _shares(length, size).to(input)
        input = (input.transpose(axis, -1) @ shares).transpose(axis, -1)
    return input


def _shares(length: int, size: int) -> Tensor:
    """(length, size): how much of each entry is in each mean.

    Mean i is that of the entries from floor(i * length / size) up to, without it,
    ceil((i + 1) * length / size), as torch.nn.AdaptiveAvgPool2d has them.
    """
    shares = torch.zeros(length, size)
    for index in range(size):
        start, stop = index * length // size, -(-(index + 1) * length // size)
        shares[start:stop, index] = 1 / (stop - start)
    return shares
