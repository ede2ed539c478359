"""What helps to train quantized models."""

import qdq.compat.pytorch_quantization.optim.helper as helper

__all__ = ["helper"]
