"""The operands of a product, quantized: three quantizers and an int32 bias."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from qdq.nn.quantizer import TensorQuantizer
from qdq.nn.symbolic import exported_fake_quantize_bias
from qdq.numerics.affine import QParams, bias_scale, fake_quantize_bias, least_weight_scale
from qdq.sites import owner
from qdq.spec import QuantSpec
from qdq.targets.target import WEIGHT


class QuantOperands(nn.Module):
    """Mixin of whatever multiplies an input by a weight and adds a bias.

    While the weight's quantizer is off the input's is off too: onnxruntime requantizes a float
    weight between Q/DQ pairs by itself, per tensor (O26), which nobody asked for.

    Attributes:
        channel_axis: axis of the weight that holds the output channels; each keeps a scale.
        integer_bias: simulate the bias as int32 codes of scale s_x * s_w, as integer kernels
            compute it. Without effect while input or weight is not quantized, the input has
            several scales, or those of the weight follow another axis than its output channels.
    """

    channel_axis: int = 0
    _input_quantizer: TensorQuantizer
    _weight_quantizer: TensorQuantizer
    _output_quantizer: TensorQuantizer
    integer_bias: bool

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
    def bias_site(self) -> str:
        """Name of the bias among the sites."""
        return f"{owner(self._weight_quantizer.site)}.bias".lstrip(".")

    @property
    def simulates_bias(self) -> bool:
        """Whether a bias, if there is one, is simulated as int32 now."""
        of_input, of_weight = self._input_quantizer, self._weight_quantizer
        axes = of_input.spec.keep_axis, of_weight.spec.keep_axis
        one_step = axes in ((None, None), (None, self.channel_axis))
        return self.integer_bias and of_input.on and of_weight.on and one_step

    def grid_of(self, weight: Tensor, bias: Tensor | None, of_input: QParams | None) -> QParams:
        """Grid of the weight as it is now, wide enough for the bias to fit its int32 codes.

        Args:
            weight: output channels along `channel_axis`.
            bias: (C,); None: there is none.
            of_input: grid of the input; None: it is not quantized.
        """
        least = None
        one_step = self._input_quantizer.spec.keep_axis is None  # else no bias is an integer
        if of_input is not None and bias is not None and one_step:
            least = least_weight_scale(bias, of_input.scale)
            if self._weight_quantizer.spec.keep_axis != self.channel_axis:
                least = least.max()
            else:  # over groups, if any
                least = least.view(-1, weight.shape[self.channel_axis]).amax(0)
        return self._weight_quantizer.grid(weight, least)

    def quantized(
        self, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The three operands as the float product shall compute with them."""
        if self._input_quantizer.observer is not None:
            return self._input_quantizer(x), weight, bias
        if not self._weight_quantizer.on:
            return x, weight, bias
        with torch._C.DisableTorchFunction():  # what it computes is no call of the model's
            return self._quantized(x, weight, bias)

    def _quantized(
        self, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        # Each grid once: the range of a weight is found anew every time it is asked for.
        of_input = self._input_quantizer.grid(x) if self._input_quantizer.on else None
        of_weight = self.grid_of(weight, bias, of_input)
        x = self._input_quantizer(x, of_input)
        weight = self._weight_quantizer(weight, of_weight)
        if bias is None or of_input is None or not self.simulates_bias:
            return x, weight, bias
        step = step_of(bias, of_input, of_weight)
        if torch.onnx.is_in_onnx_export():
            return x, weight, exported_fake_quantize_bias(bias, step, self.bias_site)
        return x, weight, fake_quantize_bias(bias, step)


def step_of(bias: Tensor, of_input: QParams, of_weight: QParams) -> Tensor:
    """() or (C,): scale of the int32 bias; the steps of one group stand once per group."""
    step = bias_scale(of_input.scale, of_weight.scale)
    return step.repeat(bias.numel() // step.numel()) if step.dim() else step
