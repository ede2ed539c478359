"""What a runtime makes of a file, node by node: read from onnxruntime, predicted for TensorRT."""
