"""The quantized modules, each where NVIDIA's stands."""
