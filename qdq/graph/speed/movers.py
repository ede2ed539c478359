"""Int8 codes are moved as codes: the DQ stands behind what moves them, from opset 21 on."""

import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, is_output
from qdq.graph.speed.quantized import scalar_grid

_FIRST_OPSET = 21  # the first in which a Q may name the type of its codes
# What onnxruntime moves a DQ over by itself.
_MOVERS = ("MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def dequantize_behind_movers(graph: gs.Graph) -> int:
    """Reshape(DQ(codes)) that something float reads becomes DQ(Reshape(codes)), in place.

    onnxruntime does so itself, with a Q and a DQ of its own behind the mover. Where the codes are
    int8 and the opset is 21 or newer, that Q names int8 as its type; on x86 the codes are uint8
    after the next step, the name stays, and the file is refused (seen in 1.31.1).

    Requires: one constant scale and zero point. Ensures: equal results.

    Returns:
        How many movers read codes now.
    """
    moved = 0
    work = [each for each in graph.nodes if each.op == DEQUANTIZE] if _names_types(graph) else []
    while work:
        dequantize = work.pop()
        grid, values = scalar_grid(dequantize), dequantize.outputs[0]
        if grid is None or grid[1].dtype != "int8":
            continue
        movers = [each for each in values.outputs if _moves_for_floats(graph, each, values)]
        for mover in movers:
            work.append(_swap(graph, dequantize, mover))
        moved += len(movers)
        if movers and not values.outputs and not is_output(graph, values):
            result = work[-1].outputs[0]
            dequantize.outputs.clear()
            if not is_output(graph, result):
                result.name = values.name  # the site is found by it
    graph.cleanup().toposort()
    return moved


def _names_types(graph: gs.Graph) -> bool:
    return bool(graph.opset >= _FIRST_OPSET)


def _moves_for_floats(graph: gs.Graph, node: gs.Node, values: gs.Tensor) -> bool:
    """Whether it moves these values, and more than a Q reads the result."""
    if node.op not in _MOVERS or node.domain or len(node.outputs) != 1:
        return False
    if sum(each is values for each in node.inputs) != 1 or node.inputs[0] is not values:
        return False
    result = node.outputs[0]
    return is_output(graph, result) or any(each.op != QUANTIZE for each in result.outputs)


def _swap(graph: gs.Graph, dequantize: gs.Node, mover: gs.Node) -> gs.Node:
    """The mover reads codes, and a DQ stands behind it; gives that DQ."""
    result, (codes, *grid) = mover.outputs[0], dequantize.inputs
    moved = gs.Variable(f"{mover.name}/codes", codes.dtype, result.shape)
    mover.inputs[0], mover.outputs = codes, [moved]
    name = f"{mover.name}/{DEQUANTIZE}"
    behind = gs.Node(DEQUANTIZE, name, dict(dequantize.attrs), [moved, *grid], [result])
    graph.nodes.append(behind)
    return behind
