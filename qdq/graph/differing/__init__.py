"""Two ONNX files compared."""
