"""A histogram of magnitudes, and the amax that one of three methods reads from it."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from qdq.compat.pytorch_quantization.calib.bins import first_bins, more
from qdq.compat.pytorch_quantization.calib.calibrator import _Calibrator
from qdq.compat.pytorch_quantization.calib.searching import (
    entropy_amax,
    mse_amax,
    percentile_amax,
)
from qdq.compat.pytorch_quantization.descriptor import Axis, NumBits
from qdq.compat.pytorch_quantization.utils.quant_logging import logger
from qdq.errors import CalibrationError

_compute_amax_entropy = entropy_amax  # private names that users call
_compute_amax_mse = mse_amax
_compute_amax_percentile = percentile_amax


class HistogramCalibrator(_Calibrator):
    """Counts |x| in equal bins from 0 to the largest of the first tensor; later ones append bins.

    Args:
        num_bits: width of a code, or (4, 3).
        axis: None; there is one histogram for all of x.
        unsigned: codes start at 0.
        num_bins: bins that the first tensor is counted in.
        grow_method: without effect, kept for old callers.
        skip_zeros: zeros are not counted.
        torch_hist: hold tensors on the device of x; otherwise numpy arrays with the same counts.

    Attributes:
        _calib_hist: (M,) int64 counts, None before any data.
        _calib_bin_edges: (M + 1,) float32, unit of x.

    Raises:
        NotImplementedError: an axis.
    """

    def __init__(
        self,
        num_bits: NumBits,
        axis: Axis,
        unsigned: bool,
        num_bins: int = 2048,
        grow_method: str | None = None,
        skip_zeros: bool = False,
        torch_hist: bool = True,
    ) -> None:
        super().__init__(num_bits, axis, unsigned)
        if axis is not None:
            raise NotImplementedError(
                f"a histogram is kept per tensor only, got axis={axis}: choose calib_method='max'"
            )
        if grow_method is not None:
            logger.warning("grow_method is deprecated and has no effect, got %r", grow_method)
        self._num_bins = num_bins
        self._skip_zeros = skip_zeros
        self._torch_hist = torch_hist
        self._calib_hist: Tensor | NDArray[Any] | None = None
        self._calib_bin_edges: Tensor | NDArray[Any] | None = None

    def collect(self, x: Tensor) -> None:
        """Count the magnitudes of x.

        Args:
            x: any shape and number type, finite.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        self._mention_negative(x)
        values = x.detach().float().abs().reshape(-1)
        if self._skip_zeros:
            values = values[values != 0]
        if values.numel() == 0:
            return
        if not self._torch_hist:
            values = values.cpu()
        peak = float(values.max())
        if not peak < float("inf"):
            raise CalibrationError(
                f"a histogram has no bin for the value {peak} of x",
                fix="look for the layer that first gives NaN or infinity on this batch",
            )
        if self._calib_hist is None or self._calib_bin_edges is None:
            bins = first_bins(values, peak, self._num_bins)
        else:
            held = torch.as_tensor(self._calib_hist), torch.as_tensor(self._calib_bin_edges)
            bins = more(held, values, peak, self._num_bins)
        self._calib_hist, self._calib_bin_edges = (
            bins if self._torch_hist else tuple(part.numpy() for part in bins)
        )

    def compute_amax(
        self, method: str, *, stride: int = 1, start_bin: int = 128, percentile: float = 99.99
    ) -> Tensor | None:
        """The amax that a method reads from the histogram.

        Args:
            method: "entropy", "mse" or "percentile".
            stride: of the search of "entropy" and "mse", in bins.
            start_bin: where that search starts.
            percentile: 0..100, the share of the values that "percentile" keeps.

        Returns:
            () float32 in the unit of x; None before any data.

        Raises:
            TypeError: an unknown method; "entropy" with num_bits=(4, 3).
            ValueError: `percentile` is outside 0..100.
        """
        counts, edges = self._calib_hist, self._calib_bin_edges
        grid = self._num_bits, self._unsigned
        if method == "entropy":
            return entropy_amax(counts, edges, *grid, stride, start_bin)
        if method == "mse":
            return mse_amax(counts, edges, *grid, stride, start_bin)
        if method == "percentile":
            return percentile_amax(counts, edges, percentile)
        raise TypeError(
            f"Unknown calibration method {method!r}: choose one of entropy, mse, percentile"
        )

    def reset(self) -> None:
        """Forget all data."""
        self._calib_hist = self._calib_bin_edges = None

    def __repr__(self) -> str:
        edges = self._calib_bin_edges
        held = None
        if edges is not None:
            held = f"[{float(edges[0]):.3f}, ..., {float(edges[-1]):.3f}]({len(edges)})"
        return f"HistogramCalibrator(calib_bin_edges={held})"
