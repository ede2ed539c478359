"""Quantized instance norms: their input is quantized.

They are not registered: no runtime has an integer InstanceNorm (T21, O14), so `insert` has no
reason to put a pair in front of one. They are there to be written by hand.
"""

from torch import nn

from qdq.nn.unary import QuantUnary


class _QuantInstanceNorm(QuantUnary):
    kind = "instance_norm"


class QuantInstanceNorm1d(_QuantInstanceNorm, nn.InstanceNorm1d):
    """`nn.InstanceNorm1d` of a fake-quantized input; arguments: `QuantUnary`."""


class QuantInstanceNorm2d(_QuantInstanceNorm, nn.InstanceNorm2d):
    """`nn.InstanceNorm2d` of a fake-quantized input; arguments: `QuantUnary`."""


class QuantInstanceNorm3d(_QuantInstanceNorm, nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` of a fake-quantized input; arguments: `QuantUnary`."""
