"""Nodes of a float graph that multiply by a constant weight."""

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import Array, only_reader, values_of

_CONVOLUTIONS = {"Conv": ("conv", 0), "ConvTranspose": ("conv_transpose", 1)}


@dataclass(frozen=True, eq=False)
class Product:
    """A layer with weights.

    Attributes:
        node: the operator that multiplies.
        kind: "conv", "conv_transpose" or "linear".
        axis: axis of the weight that holds the output channels.
        shape: of the weight as (out, in / groups, kernel...).
        total: the node that adds the bias; `node` itself where that does so, or nobody.
        bias: which input of `total` the bias is, (C,) constant; None where there is none.
    """

    node: gs.Node
    kind: str
    axis: int
    shape: tuple[int, ...]
    total: gs.Node
    bias: int | None

    @property
    def weight(self) -> Array:
        """The float weight."""
        values = values_of(self.node, 1)
        assert values is not None
        return values

    @property
    def bias_values(self) -> Array | None:
        """(C,); None where there is no bias, or it is computed."""
        return None if self.bias is None else values_of(self.total, self.bias)


def product_of(graph: gs.Graph, node: gs.Node) -> Product | None:
    """What a node is as a layer; None for one that is none, or whose weight is computed.

    A MatMul by a constant matrix is a linear layer, with the Add of a constant (N,) that alone
    reads it. Of a Gemm, A is as it is, alpha and beta are 1, and C is (N,) or left out.
    """
    weight = values_of(node, 1) if node.op in ("Gemm", "MatMul", *_CONVOLUTIONS) else None
    if node.domain or weight is None or weight.dtype != np.float32 or not weight.size:
        return None
    if node.op in _CONVOLUTIONS:
        return _convolution(node, weight)
    if weight.ndim != 2:
        return None
    return _gemm(node, weight) if node.op == "Gemm" else _matrix_product(graph, node, weight)


def _convolution(node: gs.Node, weight: Array) -> Product | None:
    kind, axis = _CONVOLUTIONS[node.op]
    bias = values_of(node, 2)
    if weight.ndim < 3 or (_has(node, 2) and bias is None):
        return None
    shape = weight.swapaxes(0, axis).shape
    return Product(node, kind, axis, shape, node, None if bias is None else 2)


def _gemm(node: gs.Node, weight: Array) -> Product | None:
    axis = 0 if node.attrs.get("transB", 0) else 1
    bias = values_of(node, 2)
    factors = (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0))
    if node.attrs.get("transA", 0) or factors != (1.0, 1.0):
        return None
    if _has(node, 2) and (bias is None or bias.shape != (weight.shape[axis],)):
        return None
    shape = weight.swapaxes(0, axis).shape
    return Product(node, "linear", axis, shape, node, None if bias is None else 2)


def _matrix_product(graph: gs.Graph, node: gs.Node, weight: Array) -> Product:
    total, place = node, None
    reader = only_reader(graph, node.outputs[0])
    for index in range(2) if reader is not None and reader.op == "Add" else ():
        bias = values_of(reader, index)
        if bias is not None and bias.shape == weight.shape[1:]:
            total, place = reader, index
    return Product(node, "linear", 1, weight.T.shape, total, place)


def _has(node: gs.Node, index: int) -> bool:
    return len(node.inputs) > index and not node.inputs[index].is_empty()
