"""BatchNormalization, and per-channel factors and terms, folded into the layer before them."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import Array, made_by, only_reader, remove, values_of
from qdq.graph.quantizing.products import Product, product_of

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_EPSILON = 1e-5  # BatchNormalization's own default


def fold_norms(graph: gs.Graph) -> int:
    """BatchNormalization right behind a layer with weights becomes part of it.

    w' = w * g, b' = (b - mean) * g + beta with g = gamma / sqrt(variance + eps) per output channel
    (Jacob et al. 2018, arXiv:1712.05877, eq. 14).

    Requires: constant parameters; nothing else reads the layer. Ensures: equal results to float
    rounding.
    """
    folded = 0
    for norm in [each for each in graph.nodes if each.op == "BatchNormalization"]:
        layer = _only_layer_of(graph, norm.inputs[0])
        gamma, beta, mean, variance = (values_of(norm, index) for index in range(1, 5))
        if layer is None or norm.domain or norm.attrs.get("training_mode", 0):
            continue
        if gamma is None or beta is None or mean is None or variance is None:
            continue
        if any(each.shape != (_channels(layer),) for each in (gamma, beta, mean, variance)):
            continue
        root = np.sqrt(variance.astype(float) + norm.attrs.get("epsilon", _EPSILON))
        gain = gamma.astype(float) / root
        _absorb(layer, gain, beta.astype(float) - mean.astype(float) * gain)
        _merge(graph, norm)
        folded += 1
    return folded


def fold_scales(graph: gs.Graph) -> int:
    """Mul, Div, Add and Sub of a constant per channel behind a layer become part of it.

    Requires: nothing else reads the layer. Ensures: equal results to float rounding.
    """
    folded = 0
    for node in [each for each in graph.nodes if each.op in ("Mul", "Div", "Add", "Sub")]:
        if node.domain:
            continue
        for index in (0, 1) if node.op in ("Mul", "Add") else (0,):
            layer = _only_layer_of(graph, node.inputs[index])
            values = values_of(node, 1 - index)
            each = None if layer is None or values is None else _per_channel(layer, values)
            if layer is None or each is None or not np.isfinite(each).all():
                continue
            if node.op == "Div" and not each.all():
                continue
            one, zero = np.ones_like(each), np.zeros_like(each)
            gain = {"Mul": each, "Div": 1 / np.where(each, each, 1)}.get(node.op, one)
            _absorb(layer, gain, {"Add": each, "Sub": -each}.get(node.op, zero))
            _merge(graph, node, index)
            folded += 1
            break
    return folded


def _merge(graph: gs.Graph, node: gs.Node, index: int = 0) -> None:
    """Take out a node behind a layer that nothing else reads: the layer makes its result."""
    maker, result = node.inputs[index].inputs[0], node.outputs[0]
    remove(graph, node)
    maker.outputs = [result]


def _only_layer_of(graph: gs.Graph, tensor: gs.Tensor) -> Product | None:
    node = made_by(tensor, *_LAYERS)
    if node is None or only_reader(graph, tensor) is None:
        return None
    return product_of(graph, node)


def _channels(layer: Product) -> int:
    groups = int(layer.node.attrs.get("group", 1)) if layer.kind == "conv_transpose" else 1
    return layer.shape[0] * groups


def _per_channel(layer: Product, values: Array) -> Array | None:
    """(C,) float64 of a constant that is one number, or one per channel; None for any other."""
    channels, rank = _channels(layer), layer.weight.ndim
    if values.dtype != np.float32 or values.ndim > rank:
        return None
    axis = rank - 1 if layer.kind == "linear" else 1
    shape = (*(1,) * (rank - values.ndim), *values.shape)
    if any(size != 1 for place, size in enumerate(shape) if place != axis):
        return None
    if shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(float)


def _absorb(layer: Product, gain: Array, shift: Array) -> None:
    """Let the layer compute what it did times `gain` plus `shift`, both (C,) float64."""
    node, weight, bias = layer.node, layer.weight, layer.bias_values
    factors = gain.astype(np.float32)
    if layer.kind == "conv_transpose":  # (C_in, C / groups, kernel...), groups along the first axis
        groups = _channels(layer) // layer.shape[0]
        parts = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = parts * factors.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
        scaled = scaled.reshape(weight.shape)
    else:
        shape = [1] * weight.ndim
        shape[layer.axis] = -1
        scaled = weight * factors.reshape(shape)
    before = np.zeros(len(gain)) if bias is None else bias.astype(float)
    total = (before * gain + shift).astype(np.float32)
    constants = [
        gs.Constant(f"{node.name}/folded_weight", scaled),
        gs.Constant(f"{node.name}/folded_bias", total),
    ]
    node.inputs = [node.inputs[0], *constants]
