"""First convolutions of three channels, given a fourth."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, made_by
from qdq.graph.speed.quantized import (
    ALIGNED,
    FEWEST,
    Codes,
    give_codes,
    read_codes,
    scalar_grid,
    symmetric_weight,
)


def pad_stem(graph: gs.Graph) -> int:
    """A convolution of 4n - 1 channels reads one more, which holds zeros, as codes.

    Requires: one group, an int8 weight with zero point 0, 16 or more channels out in blocks of
    four. Ensures: equal integer sums, for the weights of that channel are zero; the kernel that
    reads its input in place is taken, which asks for blocks of four channels.
    """
    rewritten = 0
    for conv in [each for each in graph.nodes if each.op == "Conv"]:
        weight, before = symmetric_weight(conv), made_by(conv.inputs[0], DEQUANTIZE)
        if weight is None or before is None or scalar_grid(before) is None:
            continue
        outputs, inputs = weight.values.shape[:2]
        if conv.attrs.get("group", 1) != 1 or outputs % ALIGNED or outputs < FEWEST:
            continue
        if inputs % ALIGNED != ALIGNED - 1 or isinstance(before.inputs[0], gs.Constant):
            continue
        padded = _pad_codes(graph, conv, before, weight.values.ndim)
        read_codes(graph, conv, padded, before)
        wide = np.pad(weight.values, [(0, 0), (0, 1)] + [(0, 0)] * (weight.values.ndim - 2))
        give_codes(graph, conv, 1, Codes(wide, weight.scale, weight.zero_point, weight.axis))
        rewritten += 1
    return rewritten


def _pad_codes(graph: gs.Graph, conv: gs.Node, before: gs.Node, rank: int) -> gs.Variable:
    """The codes that `before` dequantizes, with one channel more of its zero point."""
    codes, _, zero_point = before.inputs
    name = f"{codes.name}.padded/{conv.outputs[0].name}"
    pads = np.zeros(2 * rank, np.int64)
    pads[rank + 1] = 1
    padded = gs.Variable(name, zero_point.values.dtype)
    inputs = [codes, gs.Constant(f"{name}.pads", pads)]
    inputs.append(gs.Constant(f"{name}.value", zero_point.values.reshape(())))
    graph.nodes.append(gs.Node("Pad", f"{name}/Pad", {"mode": "constant"}, inputs, [padded]))
    return padded
