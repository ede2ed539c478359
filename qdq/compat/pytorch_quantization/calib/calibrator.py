"""What every calibrator has: it collects tensors and then names an amax."""

import logging
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from qdq.compat.pytorch_quantization.descriptor import Axis, NumBits
from qdq.compat.pytorch_quantization.utils.quant_logging import logger


class _Calibrator(ABC):
    """Base of the calibrators.

    Args:
        num_bits: width of a code, or (4, 3) for E4M3.
        axis: the axes that keep an amax per entry; None: one amax in all.
        unsigned: codes start at 0.
    """

    _negative_met = False  # by any calibrator: it is said once

    def __init__(self, num_bits: NumBits, axis: Axis, unsigned: bool) -> None:
        self._num_bits = num_bits
        self._axis = axis
        self._unsigned = unsigned

    @abstractmethod
    def collect(self, x: Tensor) -> None:
        """Take notice of x, any shape."""

    @abstractmethod
    def compute_amax(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Largest |x| that the quantizer shall represent; None before any data."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all data."""

    def _mention_negative(self, x: Tensor) -> None:
        """Where somebody listens at level INFO, say once that a negative value was met."""
        if _Calibrator._negative_met or not logger.isEnabledFor(logging.INFO) or x.numel() == 0:
            return
        if x.min() < 0:
            _Calibrator._negative_met = True
            logger.info(
                "Calibrator encountered negative values. It shouldn't happen after ReLU. Make sure "
                "this is the right tensor to calibrate."
            )
