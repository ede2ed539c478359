"""TensorQuantizer: a spec, a range, a switch."""

from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from qdq.errors import CalibrationError, SpecError
from qdq.nn.symbolic import exported_fake_quantize
from qdq.numerics.affine import (
    QParams,
    at_least,
    fake_quantize,
    numbers_are_free,
    qparams,
    range_of,
)
from qdq.spec import QuantSpec

Observer = Callable[[str, Tensor], None]


class TensorQuantizer(nn.Module):
    """Fake-quantizes the tensor that passes through it.

    Its state is its range: buffers `_amax` and, for two-sided ranges, `_amin`, each () or (C,)
    float32 in the unit of x, absent until something sets them. `_amax` alone is the largest |x|.

    Args:
        spec: the integer grid.
        dynamic: without a range of its own, take it anew from every tensor (weights do).

    Attributes:
        enabled: the user's switch: off, x passes unchanged.
        active: the target's switch: whether it wants a pair here at all.
        site: its dotted name in the model it was inserted into.
        limits: where an activation clamps the tensor right after this site (a ReLU: 0, inf), the
            ends of that clamp: the range never reaches past them.
        observer: called with (site, x), whatever the limits, instead of quantizing, while
            calibration looks on.
    """

    _amin: Tensor | None
    _amax: Tensor | None

    def __init__(self, spec: QuantSpec | None = None, *, dynamic: bool = False) -> None:
        super().__init__()
        self.spec = spec or QuantSpec()
        self.dynamic = dynamic
        self.enabled = True
        self.active = True
        self.site = ""
        self.limits: tuple[float, float] | None = None
        self.observer: Observer | None = None
        self.register_buffer("_amin", None)
        self.register_buffer("_amax", None)

    @property
    def calibrated(self) -> bool:
        """Whether a range was set."""
        return self._amax is not None

    @property
    def on(self) -> bool:
        """Whether x is quantized: the target wants it and the user has not switched it off."""
        return self.active and self.enabled

    @property
    def amin(self) -> Tensor | None:
        """() or (C,): lower end of the range that was set, unit of x."""
        if self._amax is None:
            return None
        return -self._amax if self._amin is None else self._amin

    @property
    def amax(self) -> Tensor | None:
        """() or (C,): upper end of the range that was set, unit of x."""
        return self._amax

    def set_range(
        self,
        amin: Tensor | float | None,
        amax: Tensor | float | None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        """Hold this range from now on, or none at all.

        Args:
            amin: () or (C,); None: `amax` is the largest |x|.
            amax: () or (C,), None to forget the range.
            device: where to keep them; None: where they are.

        Raises:
            SpecError: an end is not finite, amin > amax, or there is not one range per entry of
                `spec.keep_axis`.
        """
        if amax is None:
            self._amin = self._amax = None
            return
        with torch.inference_mode(False):  # else nothing could load into it later
            high = torch.as_tensor(amax, device=device).detach().clone().float()
            low = None
            if amin is not None:
                low = torch.as_tensor(amin, device=device).detach().clone().float()
        lowest = -high if low is None else low
        if lowest.shape != high.shape or (high.numel() > 1 and self.spec.keep_axis is None):
            shapes = f"{tuple(lowest.shape)} and {tuple(high.shape)}"
            raise SpecError(
                f"a range with ends of shape {shapes} does not fit {self.spec}",
                at=self.site,
                fix="pass two numbers, or with keep_axis two vectors with a range per entry",
            )
        if not (torch.isfinite(lowest).all() and torch.isfinite(high).all()):
            raise SpecError(
                f"the range [{amin}, {amax}] is not finite", at=self.site, fix="pass finite ends"
            )
        if bool((lowest > high).any()):
            raise SpecError(
                f"the range [{amin}, {amax}] is upside down",
                at=self.site,
                fix="pass amin <= amax",
            )
        self._amin, self._amax = low, high

    def grid(self, x: Tensor | None = None, least: Tensor | None = None) -> QParams:
        """Scale and zero point as they are now.

        Args:
            x: the tensor to quantize, where a dynamic quantizer takes its range from.
            least: () or (C,): no scale is smaller than this.

        Raises:
            CalibrationError: there is no range.
        """
        low, high = self.amin, self.amax
        if low is None or high is None:
            if not self.dynamic or x is None:
                raise CalibrationError(
                    "this quantizer has no range yet",
                    at=self.site,
                    fix="run qdq.calibrate(model, data) with data that reaches it, or switch it "
                    "off with qdq.disable_quantization(model, ...)",
                )
            low, high = range_of(x, self.spec.keep_axis)
        elif least is None and numbers_are_free(high) and (x is None or x.device == high.device):
            return _grid_of(low.item(), high.item(), self.limits, self.spec)
        if x is not None:  # CUDA multiplies by the reciprocal of a divisor that is on the CPU
            low, high = low.to(x.device), high.to(x.device)
        if self.limits is not None:
            low, high = low.clamp(*self.limits), high.clamp(*self.limits)
        found = qparams(low, high, self.spec)
        return found if least is None else at_least(found, least)

    def forward(self, x: Tensor, grid: QParams | None = None) -> Tensor:
        """Fake-quantize x; give x itself while switched off or observed.

        Args:
            x: any shape, floating point, on any device.
            grid: what `self.grid` gave for x, where it is known already; None: ask it now.
        """
        with torch._C.DisableTorchFunction():  # what it computes is no call of the model's
            if self.observer is not None:
                self.observer(self.site, x)
                return x
            if not self.on:
                return x
            grid = self.grid(x) if grid is None else grid
            if torch.onnx.is_in_onnx_export():
                return exported_fake_quantize(x, grid, self.site)
            return fake_quantize(x, grid)

    def extra_repr(self) -> str:
        """What `print(model)` shows of it."""
        held = "dynamic" if self.dynamic else "no range"
        if self._amax is not None:
            held = f"[{_short(self.amin)}, {_short(self.amax)}]"
        return f"{self.spec}, {held}" + ("" if self.on else ", off")

    # A buffer registered as None does not load, and half() would round the range: own paths.

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if prefix + "_amax" in state_dict and prefix + "_amin" not in state_dict:
            self._amin = None  # `_amax` alone is a whole range
        for name in ("_amin", "_amax"):
            stored, held = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and (held is None or held.shape != stored.shape):
                device = stored.device if held is None else held.device
                setattr(self, name, torch.empty_like(stored, dtype=torch.float32, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TensorQuantizer":
        for name in ("_amin", "_amax"):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held.to(fn(held).device))
        return self


@lru_cache(maxsize=4096)
def _grid_of(
    low: float, high: float, limits: tuple[float, float] | None, spec: QuantSpec
) -> QParams:
    """The grid of a range on the CPU, worked out once: it takes more calls than rounding does."""
    with torch.inference_mode(False):  # else it could not be part of any later gradient
        ends = torch.tensor([low, high], dtype=torch.float32, device="cpu")
        lowest, highest = ends.clamp(*(limits or (-inf, inf)))
        return qparams(lowest, highest, spec)


def _short(end: Tensor | None) -> str:
    if end is None:
        return "?"
    low, high = float(end.min()), float(end.max())
    return f"{low:.4g}" if end.numel() == 1 else f"{low:.4g}..{high:.4g}({end.numel()})"
