"""The arithmetic: pure functions on tensors (affine, batchnorm) and on numpy (the rest)."""
