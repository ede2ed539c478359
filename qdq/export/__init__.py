"""Torch model -> ONNX: markers through the exporter, then lowered for the target."""
