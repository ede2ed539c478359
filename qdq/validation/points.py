"""The quantized tensors of a file: what they are called, and their grids."""

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from qdq.graph.edges import Array
from qdq.graph.files import metadata
from qdq.graph.linting.grids import codes_kind, scale_of, zero_point_of
from qdq.graph.linting.nodes import Node
from qdq.graph.linting.view import View
from qdq.graph.simulation.arithmetic import dequantize, quantize

_CODES = (np.int8, np.uint8, np.int16, np.uint16)


@dataclass(frozen=True, eq=False)
class Point:
    """A tensor that a file quantizes.

    Attributes:
        name: of the site; in a file that names no sites, of the tensor that Q reads.
        tensor: what DQ makes.
        source: what Q reads; the codes themselves where no Q made them.
        scale: () or (C,), float32.
        zero_point: likewise, of the type of the codes.
        axis: of the C scales.
    """

    name: str
    tensor: str
    source: str
    scale: Array
    zero_point: Array
    axis: int

    def codes(self, x: Array) -> Array:
        """The codes of a tensor on this grid, as ONNX QuantizeLinear gives them."""
        return quantize(x.astype(np.float32), *self._grid(x.ndim))

    def floats(self, codes: Array) -> Array:
        """What codes stand for."""
        return dequantize(codes, *self._grid(codes.ndim))

    def _grid(self, rank: int) -> tuple[Array, Array]:
        shape = [1] * rank
        if self.scale.size > 1:
            shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def points_of(model: onnx.ModelProto) -> list[Point]:
    """The activations that a file quantizes on constant grids, in its order.

    Codes that several DQ read are one: under the name of the first site among them.
    """
    view, names = View(model), _sites(model)
    nodes: dict[str, Node] = {}
    for node in view.pairs():
        before = nodes.setdefault(node.input(0), node)
        if before.result not in names and node.result in names:
            nodes[node.input(0)] = node
    found = (_point(view, node, names.get(node.result, "")) for node in nodes.values())
    return [each for each in found if each is not None]


def _point(view: View, node: Node, site: str) -> Point | None:
    scale, kind = scale_of(view, node), codes_kind(view, node)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else None
    if scale is None or scale.dtype != np.float32 or dtype not in _CODES:
        return None
    if node.attribute("block_size", 0) or (node.input(2) and zero_point_of(view, node) is None):
        return None
    zero = zero_point_of(view, node)
    pair = view.pair(node)
    source = node.input(0) if pair is None else pair.input(0)
    return Point(
        name=site or source,
        tensor=node.result,
        source=source,
        scale=scale,
        zero_point=np.zeros_like(scale, dtype) if zero is None else zero,
        axis=node.attribute("axis", 1),
    )


def _sites(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor -> site, as the metadata of our own files says it."""
    try:
        named = json.loads(metadata(model).get("qdq.sites", "{}"))
    except ValueError:
        return {}
    pairs = named.items() if isinstance(named, dict) else ()
    return {tensor: site for site, tensor in pairs if isinstance(tensor, str)}
