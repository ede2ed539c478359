"""Tables that come with the package: what was measured, with what, and the prices."""

from typing import TypeAlias

Prices: TypeAlias = dict[str, dict[str, float]]

# "mean" is a pool over a whole map, "pool" one with a window; "grouped" a convolution in groups of
# several channels, with a "span" per group and position. The last two come from an Intel Xeon.
# An edge is where floats become codes or codes floats: "in" Q, "out" DQ; of a "map", a tensor of
# an image, both also change between the layouts of the float and of the integer kernels. "image"
# is the model's own input. "copy" is what is rearranged for a first layer.
_X86_VNNI: Prices = {
    "conv.float": {"mac": 0.0158, "output": 0.086, "call": 1370, "far_weight": 0.27},
    "conv.int8": {
        "mac": 0.00454, "output": 0.109, "position": 0.81, "call": 1530, "far_weight": 0.021,
    },
    "conv.ragged": {"element": 0.376, "output": 0.283, "call": 1710},
    "stem.float": {"mac": 0.0168, "output": 0.30},
    "stem.ragged": {"element": 0.557, "output": 0.31, "call": 7600},
    "grouped.float": {"mac": 0.005, "element": 0.25, "span": 8, "output": 0.1, "call": 3000},
    "grouped.int8": {"mac": 0.0033, "element": 0.07, "span": 39, "output": 0.1, "call": 2000},
    "depthwise.float": {"mac": 0.0271, "output": 0.048, "call": 1540},
    "depthwise.int8": {"mac": 0.0266, "output": 0.117, "position": 0.714, "call": 1960},
    "depthwise.ragged": {"mac": 0.0523, "output": 0.258, "position": 1.19, "call": 2040},
    "matrix.float": {"mac": 0.01865, "output": 0.24, "call": 980},
    "matrix.int8": {"mac": 0.0050, "output": 0.34, "call": 1710},
    "vector.float": {"mac": 0.055, "call": 980, "far_weight": 0.072},
    "vector.int8": {"mac": 0.027, "call": 1660},
    "sum.float": {"element": 0.15, "call": 2000},
    "sum.int8": {"element": 0.15, "call": 2000},
    "product.float": {"element": 0.15, "call": 2000},
    "product.int8": {"element": 0.25, "call": 2000},
    "mean.float": {"element": 0.15, "call": 2000},
    "mean.int8": {"element": 0.15, "call": 2000},
    "pool.float": {"element": 0.02, "call": 300},
    "pool.int8": {"element": 2.8, "call": 400},
    "other.float": {"element": 0.3, "call": 1500},
    "vector.in": {"element": 0.155, "call": 500},
    "vector.out": {"element": 0.148, "call": 500},
    "map.in": {"element": 0.285, "call": 2000},
    "map.out": {"element": 0.285, "call": 2000},
    "image.in": {"element": 0.415, "call": 2000},
    "copy": {"element": 0.15, "call": 1500},
    "session": {"call": 4000},
}  # fmt: skip

MACHINES: dict[str, tuple[str, str, Prices]] = {
    "x86_vnni": (
        "AMD EPYC with AVX512-VNNI, one thread",
        "onnxruntime 1.31.1, 120 shapes, least squares of relative errors; medians of their errors "
        "are 2 to 8 %, of layers with odd channels 15 %",
        _X86_VNNI,
    )
}
