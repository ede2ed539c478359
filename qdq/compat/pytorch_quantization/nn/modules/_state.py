"""What a quantizer holds: NVIDIA's attributes, and ours as views of them."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from qdq.compat.pytorch_quantization.arithmetic import E4M3_LARGEST
from qdq.compat.pytorch_quantization.descriptor import Axis, NumBits, QuantDescriptor
from qdq.compat.pytorch_quantization.utils.quant_logging import logger
from qdq.errors import SpecError
from qdq.nn import TensorQuantizer as OurTensorQuantizer
from qdq.spec import QuantSpec

BUFFERS = ("_amax", "_pre_quant_scale")


class QuantizerState(OurTensorQuantizer):
    """One of our quantizers whose truth lies in NVIDIA's attributes.

    `spec`, `enabled`, `amin` and `amax` are computed from them, so that `qdq.quantizers`,
    `qdq.calibrate`, `qdq.export_onnx` and the rest see what user code has set, and set it.

    The buffers `_amax` and `_pre_quant_scale` exist only once they hold something: user code asks
    `hasattr(quantizer, "_amax")`, and a float checkpoint fits.

    Args:
        quant_desc: how the tensor shall be quantized.

    Attributes:
        dynamic: the range shall stay its own, taken anew from every tensor, until `amax` is set.
    """

    def __init__(self, quant_desc: QuantDescriptor) -> None:
        super().__init__()
        del self._amax
        self._num_bits: NumBits = quant_desc.num_bits
        self._unsigned = quant_desc.unsigned
        self._narrow_range = quant_desc.narrow_range
        self._axis: Axis = quant_desc.axis
        self._fake_quant = quant_desc.fake_quant
        self._learn_amax = quant_desc.learn_amax
        self._scale_amax = quant_desc.scale_amax
        self._scale: Tensor | float = 1.0
        if quant_desc.amax is not None:
            self.amax = quant_desc.amax

    @property
    def num_bits(self) -> NumBits:
        """Width of a code, or (4, 3) for eight-bit floats."""
        return self._num_bits

    @num_bits.setter
    def num_bits(self, value: NumBits) -> None:
        self._num_bits = value

    @property
    def unsigned(self) -> bool:
        """Whether codes start at 0."""
        return self._unsigned

    @unsigned.setter
    def unsigned(self, value: bool) -> None:
        self._unsigned = value

    @property
    def narrow_range(self) -> bool:
        """Whether the lowest signed code is left out."""
        return self._narrow_range

    @narrow_range.setter
    def narrow_range(self, value: bool) -> None:
        self._narrow_range = value

    @property
    def axis(self) -> Axis:
        """The axes that keep a range per entry; None: one range in all."""
        return self._axis

    @property
    def fake_quant(self) -> bool:
        """Whether values come out, and not codes."""
        return self._fake_quant

    @property
    def maxbound(self) -> float:
        """The largest code: 127, 255 for unsigned ones; 448.0 for eight-bit floats."""
        if isinstance(self._num_bits, tuple):
            return E4M3_LARGEST
        return int(2 ** (self._num_bits - 1 + int(self._unsigned)) - 1)

    @property
    def scale(self) -> Tensor | float:
        """Codes per unit of x of the last tensor that became codes; 1.0 before there was one."""
        if self._fake_quant:
            logger.error("scale is kept only by a quantizer with fake_quant=False")
        return self._scale

    @property
    def step_size(self) -> Tensor | None:
        """Unit of x per code, in amax's shape; None where there is no amax."""
        amax = self.amax
        if amax is None:
            logger.error("step_size is undefined while the range is dynamic: set amax")
            return None
        return amax / torch.full_like(amax, self.maxbound)

    @property
    def amax(self) -> Tensor | None:
        """The range that was set, largest |x|: (), or one per entry with all other axes of 1."""
        return getattr(self, "_amax", None)

    @amax.setter
    def amax(self, value: ArrayLike | Tensor | None) -> None:
        self._set("_amax", value)

    @property
    def pre_quant_scale(self) -> Tensor | None:
        """A factor on x that comes before everything else; broadcasts against x."""
        return getattr(self, "_pre_quant_scale", None)

    @pre_quant_scale.setter
    def pre_quant_scale(self, value: ArrayLike | Tensor | None) -> None:
        self._set("_pre_quant_scale", value)

    @property
    def calibrated(self) -> bool:
        """Whether a range was set."""
        return self.amax is not None

    @property
    def amin(self) -> Tensor | None:
        """Lower end of the range that was set, in amax's shape."""
        amax = self.amax
        if amax is None:
            return None
        return torch.zeros_like(amax) if self._unsigned else -amax

    @property
    def spec(self) -> QuantSpec:
        """The integer grid.

        Raises:
            SpecError: there is none, because of (4, 3) bits or several kept axes.
        """
        if isinstance(self._num_bits, tuple):
            raise SpecError(
                "eight-bit floats have no integer grid",
                at=self.site,
                fix="pass num_bits=8 where integers are needed",
            )
        kept = [self._axis] if isinstance(self._axis, int) else list(self._axis or ())
        if len(kept) > 1:
            raise SpecError(
                f"axis={self._axis} keeps several axes", at=self.site, fix="keep one axis, or None"
            )
        return QuantSpec(
            bits=self._num_bits,
            signed=not self._unsigned,
            narrow=self._narrow_range and not self._unsigned,
            keep_axis=kept[0] if kept else None,
        )

    @spec.setter
    def spec(self, spec: QuantSpec) -> None:
        if not spec.symmetric:
            raise SpecError(
                f"{spec} has a zero point, which pytorch_quantization does not know",
                at=self.site,
                fix="pass symmetric=True",
            )
        self._num_bits, self._unsigned = spec.bits, not spec.signed
        self._narrow_range, self._axis = spec.narrow, spec.keep_axis

    @property
    def enabled(self) -> bool:
        """Whether x is quantized, as far as the user is concerned."""
        return self._if_quant and not self._disabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value:
            self._disabled, self._if_quant = False, True
        elif self.enabled:  # one that only calibrates stays as it is
            self._disabled = True

    def set_range(
        self,
        amin: Tensor | float | None,
        amax: Tensor | float | None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        """Hold this range from now on, whatever its shape was; or none at all.

        Args:
            amin: (), or as `amax`; None: `amax` is the largest |x|.
            amax: (), or one per entry of the kept axis; None to forget the range.
            device: where to keep it; None: where it is.

        Raises:
            SpecError: an end is not finite, or amin > amax.
        """
        if self.calibrated:
            del self._amax
        if amax is None:
            return
        high = _float32(amax, device)
        low = -high if amin is None else _float32(amin, device)
        if not bool(torch.isfinite(low).all() & torch.isfinite(high).all() & (low <= high).all()):
            raise SpecError(
                f"[{amin}, {amax}] is no range", at=self.site, fix="pass finite ends, amin <= amax"
            )
        wide = high.clamp(min=0) if self._unsigned else torch.maximum(low.abs(), high.abs())
        self.register_buffer("_amax", wide)

    def _set(self, name: str, value: ArrayLike | Tensor | None) -> None:
        """Register the buffer; or overwrite it in place, on its device."""
        public = name.removeprefix("_")
        if value is None:
            logger.error("%s cannot be set to None", public)
            return
        held: Tensor | None = getattr(self, name, None)
        given = _float32(value, None if held is None else held.device)
        if held is None:
            self.register_buffer(name, given)
        elif held.shape != given.shape:
            raise RuntimeError(
                f"Changing shape when setting {public} is not allowed. It is {tuple(held.shape)} "
                f"and shall become {tuple(given.shape)}; set_range(None, None) forgets a range"
            )
        else:
            held.copy_(given)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in BUFFERS:
            stored, held = state_dict.get(prefix + name), getattr(self, name, None)
            if stored is None:
                if held is not None:
                    logger.error("the checkpoint has no %s%s, the quantizer has", prefix, name)
                continue
            if held is not None:
                logger.warning("%s%s is overwritten by the checkpoint's", prefix, name)
            if held is None or held.shape != stored.shape:
                where = stored.device if held is None else held.device
                self.register_buffer(name, torch.empty_like(stored, dtype=torch.float32).to(where))
        # Past ours, which counts on `_amax` to exist.
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizerState":
        for child in self.children() if recurse else ():
            child._apply(fn)  # type: ignore[no-untyped-call]
        for name in BUFFERS:  # moved, never rounded to half
            held: Tensor | None = getattr(self, name, None)
            if held is not None:
                setattr(self, name, held.to(fn(held).device))
        return self


def _float32(value: ArrayLike | Tensor, device: torch.device | str | None) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device=device).detach().clone()
