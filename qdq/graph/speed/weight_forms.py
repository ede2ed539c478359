"""The two forms of a weight in a Q/DQ file: codes and a DQ, or floats in front of Q and DQ."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE
from qdq.graph.speed.quantized import constant_codes, rounds_once


def write_weights_as_floats(graph: gs.Graph) -> int:
    """The int8 codes of each weight become the floats that they stand for, in front of a Q (T06).

    Requires: constant codes with zero point 0 behind a DQ. Ensures: equal results, as the Q gives
    the codes back. The file holds four bytes for each code then.

    Returns:
        How many weights there were.
    """
    rewritten = 0
    for node in [each for each in graph.nodes if each.op == DEQUANTIZE]:
        held, tensor = constant_codes(node.outputs[0]), node.outputs[0].name
        if held is None or held.values.dtype != np.int8 or held.zero_point.any():
            continue
        if not all(rounds_once((scale, held.zero_point)) for scale in held.scale.flat):
            continue
        shape = [1] * held.values.ndim
        if held.axis is not None:
            shape[held.axis] = -1
        values = held.values.astype(np.float32) * held.scale.reshape(shape)
        point = gs.Constant(f"{tensor}.zero_point", held.zero_point)
        operands = [node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else point]
        codes = gs.Variable(f"{tensor}.quantized", np.int8, held.values.shape)
        inputs = [gs.Constant(f"{tensor}.floats", values), *operands]
        attributes = dict(node.attrs)
        graph.nodes.append(gs.Node(QUANTIZE, f"{tensor}/{QUANTIZE}", attributes, inputs, [codes]))
        node.inputs = [codes, *operands]
        rewritten += 1
    graph.cleanup().toposort()
    return rewritten
