"""NVIDIA's TensorQuantizer: one of ours that calibrates, learns and reports the way theirs does."""

from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from qdq.compat.pytorch_quantization.calib import HistogramCalibrator, MaxCalibrator
from qdq.compat.pytorch_quantization.nn.modules._export import e4m3_nodes, fake_quantize_nodes
from qdq.compat.pytorch_quantization.nn.modules._ranges import along, range_of, short
from qdq.compat.pytorch_quantization.nn.modules._state import QuantizerState
from qdq.compat.pytorch_quantization.nn.modules.clip import Clip
from qdq.compat.pytorch_quantization.symbolic import UnexportableError
from qdq.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_PER_TENSOR,
    QuantDescriptor,
    fake_tensor_quant,
    scaled_e4m3,
    tensor_quant,
)
from qdq.compat.pytorch_quantization.utils.quant_logging import logger
from qdq.errors import CalibrationError, SpecError
from qdq.numerics.affine import QParams, at_least, qparams

Calibrator: TypeAlias = MaxCalibrator | HistogramCalibrator


class TensorQuantizer(QuantizerState):
    """Quantizes the tensor that passes through it, collects its statistics, or lets it pass.

    Args:
        quant_desc: how; None: 8 bits per tensor.
        disabled: let x pass.
        if_quant: quantize.
        if_clip: clip x to learned limits first.
        if_calib: show x to the calibrator.

    Attributes:
        use_fb_fake_quant: flag of the class: an export may freeze the range that the example
            inputs have at a quantizer that was never calibrated.

    Raises:
        ValueError: `if_clip` without learn_amax in the descriptor.
        NotImplementedError: a histogram per entry of an axis.
    """

    _enable_onnx_export: ClassVar[bool] = False
    use_fb_fake_quant: ClassVar[bool] = False

    def __init__(
        self,
        quant_desc: QuantDescriptor | None = None,
        disabled: bool = False,
        if_quant: bool = True,
        if_clip: bool = False,
        if_calib: bool = False,
    ) -> None:
        desc = quant_desc or QUANT_DESC_8BIT_PER_TENSOR
        super().__init__(desc)
        self._disabled = disabled
        self._if_quant = if_quant
        self._if_clip = False
        self._if_calib = if_calib
        self._calibrator = _calibrator_for(desc)
        if desc.learn_amax:
            limit = 1.0 if self.amax is None else float(self.amax)
            self.clip = Clip(-limit, limit, learn_min=True, learn_max=True)
        if desc.learn_amax or if_clip:
            self.enable_clip()

    def enable(self) -> None:
        """Work again as the other switches say."""
        self._disabled = False

    def disable(self) -> None:
        """Let x pass, whatever the other switches say."""
        self._disabled = True

    def enable_quant(self) -> None:
        """Quantize."""
        self._if_quant = True

    def disable_quant(self) -> None:
        """Do not quantize; calibrate and clip as before."""
        self._if_quant = False

    def enable_calib(self) -> None:
        """Show every x to the calibrator."""
        if self._calibrator is None:
            logger.warning("there is no calibrator: nothing will be collected, set amax by hand")
        self._if_calib = True

    def disable_calib(self) -> None:
        """Show nothing to the calibrator any more."""
        logger.warning("disable calibration of %s", type(self).__name__)
        self._if_calib = False

    def enable_clip(self) -> None:
        """Clip x to the learned limits; ValueError without learn_amax in the descriptor."""
        if not self._learn_amax:
            raise ValueError(
                "learn_amax is False. Cannot enable clip. Pass learn_amax=True in the descriptor"
            )
        logger.warning("enable the clip stage: x is held within learned limits")
        self._if_clip = True

    def disable_clip(self) -> None:
        """Do not clip x, unless it is quantized by learned limits."""
        self._if_clip = False

    def load_calib_amax(self, *args: Any, strict: bool = True, **kwargs: Any) -> None:
        """Take the range that the calibrator finds in what it collected.

        Args:
            *args: for the calibrator's `compute_amax`: a method, where it has several.
            strict: refuse a calibrator that saw nothing; otherwise amax becomes NaN.
            **kwargs: likewise.

        Raises:
            RuntimeError: the calibrator saw nothing, or there is none.
            TypeError: a histogram, and no method.
        """
        found = None if self._calibrator is None else self._calibrator.compute_amax(*args, **kwargs)
        if found is None:
            problem = (
                "Calibrator returned None. Feed data that reaches this quantizer while "
                "enable_calib is on, or pass strict=False"
            )
            if strict:
                raise RuntimeError(problem)
            logger.warning("%s; amax is NaN", problem)
            found = torch.tensor(torch.nan)
        logger.warning("load calibrated amax of shape %s", tuple(found.shape))
        if self.amax is not None and self.amax.shape != found.shape:
            self.set_range(None, None)
        self.amax = found

    def init_learn_amax(self) -> None:
        """Start learning from the range that was set, the largest where there are several.

        Raises:
            RuntimeError: the descriptor has no learn_amax, or no range was set.
        """
        if not self._learn_amax or self.amax is None:
            raise RuntimeError(
                "init_learn_amax starts from a range: pass learn_amax=True in the descriptor, and "
                "set amax or call load_calib_amax first"
            )
        amax = self.amax.max()
        with torch.no_grad():
            self.clip.clip_value_min.copy_(-amax)
            self.clip.clip_value_max.copy_(amax)

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]  # ours may take a grid
        """Scale, collect, clip and quantize x, each as the switches say.

        Args:
            inputs: any shape, floating point, on any device.

        Returns:
            inputs' shape and type: values, or whole numbers with fake_quant=False.

        Raises:
            UnexportableError: on the way to ONNX, no range or a grid that ONNX does not have.
        """
        x = inputs if self.pre_quant_scale is None else inputs * self.pre_quant_scale
        if self.observer is not None:
            with torch._C.DisableTorchFunction():  # what it computes is no call of the model's
                self.observer(self.site, x)
            return x
        if self._disabled or not self.active:
            return x
        if self._if_calib:
            self._collect(x)
        if self._learn_amax and (self._if_clip or self._if_quant):
            x = self.clip(x)
        return self._quantize(x) if self._if_quant else x

    def grid(self, x: Tensor | None = None, least: Tensor | None = None) -> QParams:
        """Scale and zero point as they are now, () or (C,).

        Args:
            x: the tensor to quantize, whose range counts where none was set.
            least: () or (C,): no scale is smaller than this.

        Raises:
            CalibrationError: there is no range.
            SpecError: there is no integer grid.
        """
        amax = self._known_amax() if x is None else self._get_amax(x)
        if amax is None:
            raise CalibrationError(
                "this quantizer has no range yet",
                at=self.site,
                fix="calibrate and call load_calib_amax(), or qdq.calibrate(model, data)",
            )
        spec = self.spec
        flat = amax.reshape(() if spec.keep_axis is None or amax.dim() == 0 else -1)
        found = qparams(-flat, flat, spec)
        return found if least is None else at_least(found, least)

    def extra_repr(self) -> str:
        """What `print(model)` shows of it."""
        if self._disabled:
            return "disabled"
        calibrator = self._calibrator
        parts = (
            "unsigned " if self._unsigned else "",
            f"{self._num_bits}bit",
            " narrow" if self._narrow_range else "",
            " fake" if self._fake_quant else "",
            " per-tensor" if self._axis is None else f" axis={self._axis}",
            f" amax={'dynamic' if self.amax is None else short(self.amax)}",
            "" if self._scale_amax is None else f" *{self._scale_amax}",
            "" if self.pre_quant_scale is None else " pre_quant_scale",
            " learned" if self._learn_amax else "",
            "" if calibrator is None else f" calibrator={type(calibrator).__name__}",
            f" scale={short(self._scale)}",
            " quant" if self._if_quant else "",
            " clip" if self._if_clip else "",
            " calib" if self._if_calib else "",
        )
        return "".join(parts)

    def _known_amax(self) -> Tensor | None:
        """The range that was learned or set, as it counts now: fp32; None: it is dynamic."""
        if self._learn_amax:
            low, high = self.clip.clip_value_min.detach(), self.clip.clip_value_max.detach()
            return torch.maximum(-low, high).float() * self._factor
        return None if self.amax is None else self.amax.detach().float() * self._factor

    def _get_amax(self, inputs: Tensor) -> Tensor:
        """Largest |x| as it counts now: broadcasts against `inputs`, at least fp32."""
        known = self._known_amax()
        if known is not None:
            return along(known.to(inputs.device), self._axis, inputs.dim())
        found = range_of(inputs.detach(), self._axis)
        return found.to(torch.promote_types(found.dtype, torch.float32)) * self._factor

    @property
    def _factor(self) -> float:
        return 1.0 if self._scale_amax is None else self._scale_amax

    def _collect(self, x: Tensor) -> None:
        if self._enable_onnx_export:
            logger.warning("a quantizer is exported while it calibrates")
        if self._calibrator is not None:
            self._calibrator.collect(x.detach())
        elif self.amax is None:
            logger.warning("there is no calibrator and no amax: nothing is collected")

    def _quantize(self, x: Tensor) -> Tensor:
        exporting = torch.onnx.is_in_onnx_export()
        if exporting or self._enable_onnx_export:
            self._require_range()
        is_float = isinstance(self._num_bits, tuple)
        if exporting and self._fake_quant:
            if is_float:
                return e4m3_nodes(x, self._get_amax(x), self.site)
            return fake_quantize_nodes(x, self._exported_grid(x), self.site)
        amax = self._get_amax(x)
        if is_float:
            return scaled_e4m3(x, amax)  # type: ignore[no-any-return, no-untyped-call]
        if self._fake_quant:
            grid = (self._num_bits, self._unsigned, self._narrow_range)
            return fake_tensor_quant(x, amax, *grid)  # type: ignore[no-any-return, no-untyped-call]
        codes, self._scale = tensor_quant(x, amax, self._num_bits, self._unsigned)  # type: ignore[no-untyped-call]
        return codes  # type: ignore[no-any-return]

    def _exported_grid(self, x: Tensor) -> QParams:
        try:
            return self.grid(x)
        except SpecError as error:
            raise UnexportableError(error.what, at=self.site, fix="keep one axis") from error

    def _require_range(self) -> None:
        """A range, or what allows the example's; a weight is constant and has its own."""
        if self.dynamic or self._known_amax() is not None:
            return
        if self.use_fb_fake_quant and not torch.compiler.is_exporting():
            logger.warning("%s was never calibrated: its range is the example's", self.site or self)
            return
        raise UnexportableError(
            "Quantizer has not been calibrated.",
            at=self.site,
            fix="collect with enable_calib and call load_calib_amax(), or set amax",
        )


def _calibrator_for(desc: QuantDescriptor) -> Calibrator | None:
    """None for a method nobody knows, of which the descriptor has warned."""
    if desc.calib_method == "histogram":
        logger.info("Creating histogram calibrator")
        return HistogramCalibrator(desc.num_bits, desc.axis, desc.unsigned)
    if desc.calib_method == "max":
        logger.info("Creating Max calibrator")
        return MaxCalibrator(desc.num_bits, desc.axis, desc.unsigned)
    return None
