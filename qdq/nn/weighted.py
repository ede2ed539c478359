"""What every quantized layer with weights shares: three quantizers and an int32 bias."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.symbolic import exported_fake_quantize_bias
from qdq.numerics.affine import QParams, bias_scale, fake_quantize_bias, least_weight_scale
from qdq.sites import owner
from qdq.spec import QuantSpec
from qdq.targets.target import WEIGHT


class QuantWeighted(nn.Module):
    """Mixin of a layer with `weight` and `bias`, to stand before its float class.

    What the layer multiplies is fake-quantized first. While the weight's quantizer is off the
    input's is off too: onnxruntime requantizes a float weight between Q/DQ pairs by itself, per
    tensor (O26), which nobody asked for.

    Args:
        *args: as for the float class.
        input_spec: grid of input and output; None: int8 symmetric.
        weight_spec: grid of the weight; None: int8 symmetric, a scale per output channel.
        **kwargs: as for the float class, `device` and `dtype` among them.

    Attributes:
        kind: what the op is called in the neutral op graph.
        channel_axis: axis of `weight` that holds the output channels; each keeps a scale.
        integer_bias: simulate the bias as int32 codes of scale s_x * s_w, as integer kernels
            compute it. Without effect while input or weight is not quantized, or the scales of
            the weight follow another axis than its output channels.
    """

    kind: ClassVar[str]
    channel_axis: ClassVar[int] = 0
    weight: Tensor
    bias: Tensor | None
    _input_quantizer: TensorQuantizer
    _weight_quantizer: TensorQuantizer
    _output_quantizer: TensorQuantizer
    integer_bias: bool

    def __init__(
        self,
        *args: Any,
        input_spec: QuantSpec | None = None,
        weight_spec: QuantSpec | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.add_quantizers(input_spec, weight_spec)

    def add_quantizers(
        self, input_spec: QuantSpec | None = None, weight_spec: QuantSpec | None = None
    ) -> None:
        """Give the layer its quantizers; the one on the output starts switched off.

        Args:
            input_spec: grid of input and output; None: int8 symmetric.
            weight_spec: grid of the weight; None: int8 symmetric, a scale per output channel.
        """
        per_channel = replace(WEIGHT, keep_axis=self.channel_axis)
        self._input_quantizer = TensorQuantizer(input_spec)
        self._weight_quantizer = TensorQuantizer(weight_spec or per_channel, dynamic=True)
        self._output_quantizer = TensorQuantizer(input_spec)
        self._output_quantizer.active = False
        self.integer_bias = False

    @property
    def bias_is_integer(self) -> bool:
        """Whether the bias is simulated as int32 now."""
        quantized = self._input_quantizer.on and self._weight_quantizer.on
        one_step = self._weight_quantizer.spec.keep_axis in (None, self.channel_axis)
        return self.integer_bias and self.bias is not None and quantized and one_step

    @property
    def bias_site(self) -> str:
        """Name of the bias among the sites."""
        return f"{owner(self._weight_quantizer.site)}.bias".lstrip(".")

    def bias_step(self) -> Tensor:
        """() or (C,): scale of the int32 bias; the steps of one group stand once per group."""
        return self._bias_step(self._input_quantizer.grid(), self.weight_grid())

    def _bias_step(self, of_input: QParams, of_weight: QParams) -> Tensor:
        step = bias_scale(of_input.scale, of_weight.scale)
        if self.bias is None or not step.dim():
            return step
        return step.repeat(self.bias.numel() // step.numel())

    def weight_grid(self) -> QParams:
        """Grid of the weight as it is now, wide enough for the bias to fit its int32 codes."""
        return self._weight_grid(self._input_quantizer.grid() if self._input_quantizer.on else None)

    def _weight_grid(self, of_input: QParams | None) -> QParams:
        least = None if of_input is None else self._least_weight_scale(of_input.scale)
        return self._weight_quantizer.grid(self.weight, least)

    def _least_weight_scale(self, of_input: Tensor) -> Tensor | None:
        if self.bias is None:
            return None
        least = least_weight_scale(self.bias, of_input)
        if self._weight_quantizer.spec.keep_axis != self.channel_axis:
            return least.max()
        return least.view(-1, self.weight.shape[self.channel_axis]).amax(0)  # over groups, if any

    def quantized_operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(x, weight, bias) as the float layer shall compute with them."""
        if self._input_quantizer.observer is not None:
            return self._input_quantizer(x), self.weight, self.bias
        if not self._weight_quantizer.on:
            return x, self.weight, self.bias
        # Each grid once: the range of a weight is found anew every time it is asked for.
        of_input = self._input_quantizer.grid(x) if self._input_quantizer.on else None
        of_weight = self._weight_grid(of_input)
        x = self._input_quantizer(x, of_input)
        weight = self._weight_quantizer(self.weight, of_weight)
        if self.bias is None or of_input is None or not self.bias_is_integer:
            return x, weight, self.bias
        step = self._bias_step(of_input, of_weight)
        if torch.onnx.is_in_onnx_export():
            return x, weight, exported_fake_quantize_bias(self.bias, step, self.bias_site)
        return x, weight, fake_quantize_bias(self.bias, step)
