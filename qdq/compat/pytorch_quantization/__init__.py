"""NVIDIA's pytorch_quantization, version 2.2.1: its names and behaviour over our quantizers.

Code written for it runs with `pytorch_quantization` replaced by this package's name, or, under
its own name, after `qdq.compat.install()` or by `python -m qdq.compat.pytorch_quantization
SCRIPT`. Messages go to the logger "pytorch_quantization".
"""

from qdq.compat.pytorch_quantization.quant_modules import (
    deactivate,
    enable_onnx_export,
    initialize,
)

__version__ = "2.2.1"
__all__ = ["deactivate", "enable_onnx_export", "initialize"]
