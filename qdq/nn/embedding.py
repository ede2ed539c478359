"""Quantized embedding: its table is held in int8 codes."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.errors import SpecError
from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.twins import register
from qdq.numerics.affine import QParams
from qdq.spec import QuantSpec
from qdq.targets.target import WEIGHT


def renormalized(layer: nn.Module) -> str:
    """Why an embedding has to stay float: its table changes while it is read; else empty."""
    norm = getattr(layer, "max_norm", None)
    return "" if norm is None else f"max_norm={norm} rescales rows of the table while it is read"


@register(nn.Embedding, unless=renormalized)
class QuantEmbedding(nn.Embedding):
    """`nn.Embedding` with a fake-quantized table; the indices have nothing to quantize.

    The table has one scale. A scale per row would round less, but a runtime that keeps the table
    in codes picks rows of codes first (Gather) and dequantizes what it picked, and
    DequantizeLinear cannot know which rows those were. With a scale per row it would have to
    dequantize the whole table in every run.

    Args:
        *args: as for `nn.Embedding`.
        weight_spec: grid of the table; None: int8 symmetric, one scale.
        **kwargs: as for `nn.Embedding`.

    Attributes:
        kind: what the op is called in the neutral op graph.
        bias_is_integer: False, it has no bias.

    Raises:
        SpecError: `max_norm` is set.
    """

    kind: ClassVar[str] = "embedding"
    bias_is_integer: ClassVar[bool] = False
    _weight_quantizer: TensorQuantizer

    def __init__(self, *args: Any, weight_spec: QuantSpec | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(weight_spec)

    def add_quantizers(self, weight_spec: QuantSpec | None = None) -> None:
        """Give the layer its quantizer.

        Args:
            weight_spec: grid of the table; None: int8 symmetric, one scale.

        Raises:
            SpecError: `max_norm` is set.
        """
        refused = renormalized(self)
        if refused:
            raise SpecError(
                f"an embedding whose table is no constant cannot be quantized: {refused}",
                fix="leave it float with ignore=, or set max_norm=None once it is trained",
            )
        self._weight_quantizer = TensorQuantizer(weight_spec or WEIGHT, dynamic=True)

    def weight_grid(self) -> QParams:
        """Grid of the table as it is now."""
        return self._weight_quantizer.grid(self.weight)

    def weights(self) -> dict[str, tuple[Tensor, QParams]]:
        """Role among the sites -> (the table, its grid as it is now)."""
        return {"weight": (self.weight, self.weight_grid())}

    def forward(self, input: Tensor) -> Tensor:
        """Indices (...) -> rows (..., embedding_dim), as the float class."""
        quantizer = self._weight_quantizer
        if not quantizer.on:
            return super().forward(input)
        grid = self.weight_grid()
        if torch.onnx.is_in_onnx_export() or grid.spec.keep_axis is not None:
            table = quantizer(self.weight, grid)
            by_frequency = self.scale_grad_by_freq
            return F.embedding(input, table, self.padding_idx, scale_grad_by_freq=by_frequency)
        # With one scale rounding and picking commute, and few rows are less work than all.
        return quantizer(super().forward(input), grid)  # type: ignore[no-any-return]
