"""A product's shape, and what of it takes time: the terms that a table prices.

The terms follow the kernels of onnxruntime's CPU provider. Float convolutions compute on blocks of
16 channels. Integer ones read their input in place if channels come in blocks of 4 and at least 16
go out, and depthwise ones if they come in blocks of 16; otherwise each patch is copied first.
"""

from dataclasses import dataclass, replace
from math import isqrt
from typing import TypeAlias

# Name of the table's row, and how much of each of its terms there is.
Terms: TypeAlias = tuple[str, dict[str, float]]
Bill: TypeAlias = list[Terms]

ALIGNED = 4  # channels of a dense convolution come in such blocks
FEWEST = 16  # channels out, below which an integer convolution copies patches
DEPTHWISE = 16  # channels of a depthwise convolution come in such blocks
_FLOAT_BLOCK = 16
CACHED = 250_000  # weights that stay in a cache between two runs
_STEM = 4  # channels in, up to which a float convolution has a kernel of its own
_LARGE_STEM = 5  # side of a strided kernel from which it computes on blocks of 2x2 pixels


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or a product with a constant matrix.

    Attributes:
        outputs: channels or columns out.
        inputs: channels or rows in, per group.
        kernel: positions of the kernel, 9 of 3x3.
        groups: of channels.
        places: positions of the output, of all rows of the batch; rows of a matrix product.
        read: values it reads.
        matrix: whether it is a matrix product.
    """

    outputs: int
    inputs: int
    kernel: int
    groups: int
    places: int
    read: int
    matrix: bool = False

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel out is made of one channel in."""
        return self.groups > 1 and self.inputs == 1

    @property
    def weights(self) -> int:
        """Values of its weight."""
        return self.outputs * self.inputs * self.kernel

    @property
    def is_stem(self) -> bool:
        """Whether it reads so few channels that they are colors."""
        return self.groups == 1 and self.inputs <= _STEM and not self.matrix


def float_terms(layer: Layer) -> Terms:
    """What takes time in float."""
    made = layer.places * layer.outputs
    terms = {"output": made, "call": 1.0, "far_weight": max(0, layer.weights - CACHED)}
    if layer.matrix:
        return _matrix_terms(layer, "float", terms)
    if layer.is_stem:
        wide = layer.places * _up(layer.outputs, _FLOAT_BLOCK)
        return "stem.float", {**terms, "output": wide, "mac": wide * layer.inputs * layer.kernel}
    if layer.is_depthwise:
        wide = _up(layer.outputs, _FLOAT_BLOCK)
        return "depthwise.float", {**terms, "mac": layer.places * wide * layer.kernel}
    if layer.groups > 1:
        return _grouped_terms(layer, "float", terms)
    outputs, inputs = (_up(each, _FLOAT_BLOCK) for each in (layer.outputs, layer.inputs))
    return "conv.float", {**terms, "mac": layer.places * layer.kernel * outputs * inputs}


def integer_terms(layer: Layer) -> Terms:
    """What takes time in integers, between tensors that are codes already."""
    made = layer.places * layer.outputs
    terms = {"output": made, "call": 1.0, "far_weight": max(0, layer.weights - CACHED)}
    if layer.matrix:
        return _matrix_terms(layer, "int8", terms)
    terms |= {"mac": layer.places * layer.weights, "position": layer.places * layer.kernel}
    if layer.is_depthwise:
        return f"depthwise.{'int8' if layer.outputs % DEPTHWISE == 0 else 'ragged'}", terms
    if layer.groups > 1:
        return _grouped_terms(layer, "int8", terms)
    if _is_aligned(layer):
        return "conv.int8", terms
    kind = "stem" if layer.is_stem else "conv"
    return f"{kind}.ragged", {**terms, "element": layer.places * layer.kernel * layer.inputs}


def rewritten_stem(layer: Layer) -> tuple[Layer, int] | None:
    """A first layer as the speed passes write it, and how many values they copy for it.

    Three channels get a fourth, and a large strided kernel computes on blocks of 2x2 pixels; None
    for a layer that they leave alone.
    """
    if not layer.is_stem or layer.outputs % ALIGNED or layer.outputs < FEWEST:
        return None
    pixels, side = layer.read // layer.inputs, isqrt(layer.kernel)
    if side**2 == layer.kernel and side >= _LARGE_STEM and pixels >= 3 * layer.places:
        blocked = replace(layer, inputs=4 * layer.inputs, kernel=((side + 1) // 2) ** 2)
        return blocked, layer.read
    if layer.inputs == ALIGNED - 1:
        return replace(layer, inputs=ALIGNED), pixels * ALIGNED
    return None


def _matrix_terms(layer: Layer, numbers: str, terms: dict[str, float]) -> Terms:
    kind = "vector" if layer.places == 1 else "matrix"
    return f"{kind}.{numbers}", {**terms, "mac": layer.places * layer.weights}


def _grouped_terms(layer: Layer, numbers: str, terms: dict[str, float]) -> Terms:
    """Of a convolution in groups of several channels: each group's patches are copied first."""
    patches = layer.places * layer.kernel * layer.inputs * layer.groups
    macs = layer.places * layer.weights
    spans = layer.places * layer.groups
    return f"grouped.{numbers}", {**terms, "mac": macs, "element": patches, "span": spans}


def _is_aligned(layer: Layer) -> bool:
    blocks = layer.outputs % ALIGNED == 0 and layer.inputs % ALIGNED == 0
    return blocks and layer.outputs >= FEWEST


def _up(channels: int, block: int) -> int:
    return -(-channels // block) * block
