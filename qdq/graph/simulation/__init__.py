"""onnxruntime's optimized graph on the CPU, computed in numpy code for code."""
