"""Operators that move values and compute nothing, on codes as on floats."""

import numpy as np

from qdq.graph.edges import Array
from qdq.graph.simulation.kernels import KERNELS, Attributes, Inputs


@KERNELS.add(("", "Transpose"))
def transpose(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX Transpose."""
    return np.transpose(np.asarray(inputs[0]), attributes.get("perm"))


@KERNELS.add(("", "Identity"))
def same(_: Attributes, inputs: Inputs) -> Array | None:
    """ONNX Identity."""
    return inputs[0]


@KERNELS.add(("", "Flatten"))
def flatten(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX Flatten."""
    x, axis = np.asarray(inputs[0]), attributes.get("axis", 1)
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, -1) if x.size else None


@KERNELS.add(("", "Reshape"))
def reshape(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX Reshape; 0 keeps a length unless `allowzero` is set."""
    x, shape = np.asarray(inputs[0]), np.asarray(inputs[1]).tolist()
    if attributes.get("allowzero", 0):
        return x.reshape(shape)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


@KERNELS.add(("", "Concat"))
def concatenate(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX Concat."""
    return np.concatenate([np.asarray(each) for each in inputs], axis=attributes["axis"])


@KERNELS.add(("", "Pad"))
def pad(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX Pad with a constant, of all axes, from opset 11 on."""
    if attributes.get("mode", b"constant") != b"constant" or len(inputs) not in (2, 3):
        return None
    x, pads = np.asarray(inputs[0]), np.asarray(inputs[1]).tolist()
    fill = 0 if len(inputs) == 2 or inputs[2] is None else inputs[2].item()
    if min(pads, default=0) < 0:
        return None
    widths = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    return np.pad(x, widths, constant_values=fill) if widths else x


@KERNELS.add(("", "SpaceToDepth"))
def into_channels(attributes: Attributes, inputs: Inputs) -> Array | None:
    """ONNX SpaceToDepth: blocks of (N, C, H, W) become channels, the place in a block outermost."""
    x, block = np.asarray(inputs[0]), attributes["blocksize"]
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // block, block, w // block, block)
    return split.transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // block, w // block)
