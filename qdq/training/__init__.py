"""Quantization-aware training of a model that was inserted and calibrated."""
