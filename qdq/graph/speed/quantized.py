"""Codes and grids as Q and DQ nodes hold them, and giving a node other ones."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    is_output,
    made_by,
    maker_of,
    only_reader,
    remove,
    values_of,
)

ALIGNED = 4  # channels in and out of a dense convolution go into integer kernels in such blocks
FEWEST = 16  # channels out, below which the fast integer kernel is not taken
_INTEGER = ("Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat")
_JOINING = ("Add", "Mul", "Concat")  # all that they read are values
_LEAST, _MOST = np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max / 2**17

Grid: TypeAlias = tuple[np.float32, Array]  # scale, zero point () in the type of the codes


@dataclass(frozen=True, eq=False)
class Codes:
    """Integers that a DQ makes floats of.

    Attributes:
        values: the codes.
        scale: () or (C,) float32.
        zero_point: of the same shape, in the type of the codes.
        axis: the axis of the C scales; None for one scale.
    """

    values: Array
    scale: Array
    zero_point: Array
    axis: int | None


def scalar_grid(node: gs.Node | None) -> Grid | None:
    """(scale, zero point ()) of a Q or DQ with one constant positive scale and integer codes.

    None for any other node.
    """
    if node is None:
        return None
    scale, zero_point = values_of(node, 1), values_of(node, 2)
    if scale is None or zero_point is None or scale.size != 1 or scale.dtype != np.float32:
        return None
    if not np.issubdtype(zero_point.dtype, np.integer) or not 0 < scale.reshape(()) < np.inf:
        return None
    return np.float32(scale.reshape(())), zero_point.reshape(())


def rounds_once(grid: Grid) -> bool:
    """Whether a second Q of a grid gives the codes that the first gave.

    (c * s) / s is off by less than |c| / 2^22 in float32, and rounds to c for all of 8 bits.
    """
    return bool(_LEAST <= grid[0] <= _MOST)


def can_give_codes(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether what makes a tensor for one reader runs in integers once that reader is a Q."""
    maker = maker_of(tensor)
    if maker is None or maker.op not in _INTEGER or only_reader(graph, tensor) is None:
        return False
    operands = maker.inputs if maker.op in _JOINING else maker.inputs[:2]
    return all(made_by(each, DEQUANTIZE) is not None for each in operands)


def constant_codes(tensor: gs.Tensor) -> Codes | None:
    """The constant codes behind a tensor that a DQ makes; None for any other tensor."""
    node = made_by(tensor, DEQUANTIZE)
    if node is None or node.attrs.get("block_size"):
        return None
    values, scale, zero_point = (values_of(node, index) for index in range(3))
    if values is None or scale is None or scale.ndim > 1 or scale.dtype != np.float32:
        return None
    if zero_point is None:
        zero_point = np.zeros(scale.shape, values.dtype)
    axis = node.attrs.get("axis", 1) % max(values.ndim, 1) if scale.ndim else None
    return Codes(values, scale, zero_point, axis)


def symmetric_weight(node: gs.Node, axis: int = 0) -> Codes | None:
    """The weight of a Conv or MatMul as fast kernels ask for it; None for any other.

    It is int8 with zero point 0 and has one scale, or one per entry of `axis`: the channels out.
    """
    codes = constant_codes(node.inputs[1])
    if codes is None or codes.values.dtype != np.int8 or codes.zero_point.any():
        return None
    return codes if codes.axis in (None, axis) else None


def give_codes(graph: gs.Graph, node: gs.Node, index: int, codes: Codes) -> None:
    """Let an input of a node be a DQ of these codes; other readers of the old one keep it.

    The new tensors are called like the old ones where nobody reads these any more.
    """
    old = node.inputs[index]
    before = made_by(old, DEQUANTIZE)
    result = gs.Variable(old.name, np.float32, codes.values.shape)
    node.inputs[index] = result
    if old.outputs or is_output(graph, old):
        result.name += f"/{node.outputs[0].name}"
    stem, name = result.name, f"{result.name}/{DEQUANTIZE}"
    if before is not None and stem == old.name:
        operands, name = list(before.inputs), before.name
        remove(graph, before)
        if any(each.outputs for each in operands):  # a twin of the old DQ keeps their names
            stem += f"/{node.outputs[0].name}"
    arrays = {"codes": codes.values, "scale": codes.scale}
    if codes.values.dtype != np.int32:  # an int32 bias needs none
        arrays["zero_point"] = codes.zero_point
    constants = [gs.Constant(f"{stem}.{word}", array) for word, array in arrays.items()]
    attrs = {} if codes.axis is None else {"axis": codes.axis}
    graph.nodes.append(gs.Node(DEQUANTIZE, name, attrs, constants, [result]))


def read_codes(graph: gs.Graph, node: gs.Node, codes: gs.Variable, before: gs.Node) -> None:
    """Let a node read these codes, dequantized as `before` does, which it read until now.

    The new values are called like the old ones where nobody reads these any more.
    """
    old = node.inputs[0]
    operands, attrs = list(before.inputs[1:]), dict(before.attrs)
    result, name = gs.Variable(old.name, np.float32), before.name
    node.inputs[0] = result
    if old.outputs or is_output(graph, old):
        result.name = f"{old.name}/{node.outputs[0].name}"
        name = f"{result.name}/{DEQUANTIZE}"
    else:
        remove(graph, before)
    graph.nodes.append(gs.Node(DEQUANTIZE, name, attrs, [codes, *operands], [result]))


def pair_behind(graph: gs.Graph, tensor: gs.Tensor, grid: Grid, name: str) -> gs.Variable:
    """A new Q and DQ of a tensor, with initializers of their own; gives what leaves them."""
    scale, zero_point = grid
    operands = [
        gs.Constant(f"{name}.scale", np.array(scale)),
        gs.Constant(f"{name}.zero_point", np.array(zero_point)),
    ]
    codes = gs.Variable(f"{name}.codes", zero_point.dtype)
    values = gs.Variable(name, np.float32)
    graph.nodes += [
        gs.Node(QUANTIZE, f"{name}/{QUANTIZE}", {}, [tensor, *operands], [codes]),
        gs.Node(DEQUANTIZE, f"{name}/{DEQUANTIZE}", {}, [codes, *operands], [values]),
    ]
    return values
