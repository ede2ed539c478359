"""The ONNX file: reading and writing it, and passes over it. No torch."""
