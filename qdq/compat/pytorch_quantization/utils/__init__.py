"""`reduce_amax`, and the logger of the layer."""

from qdq.compat.pytorch_quantization.utils.reduce_amax import reduce_amax

__all__ = ["reduce_amax"]
