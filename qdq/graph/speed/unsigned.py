"""Signed activations, written in unsigned codes."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, is_output
from qdq.graph.speed.quantized import scalar_grid

_SHIFT = 128  # from int8 to uint8


def shift_codes(graph: gs.Graph) -> int:
    """An int8 Q and its DQs use uint8, with codes and zero point higher by 128.

    Requires: one constant scale and zero point each; DQs are all that reads the codes. Ensures:
    equal results, as code - zero point is what it was. x86 kernels multiply uint8 by int8;
    onnxruntime shifts by itself only what has one reader.
    """
    shifted = 0
    for quantize in [each for each in graph.nodes if each.op == QUANTIZE]:
        codes = quantize.outputs[0]
        readers = list(codes.outputs)
        if is_output(graph, codes) or any(each.op not in (DEQUANTIZE, "Shape") for each in readers):
            continue
        pair = [quantize, *(each for each in readers if each.op == DEQUANTIZE)]
        grids = [scalar_grid(each) for each in pair]
        if any(grid is None or grid[1].dtype != np.int8 for grid in grids):
            continue
        for node, grid in zip(pair, grids, strict=True):
            assert grid is not None  # seen above
            name = f"{node.outputs[0].name}.unsigned_zero_point"
            node.inputs[2] = gs.Constant(name, np.array(int(grid[1]) + _SHIFT, np.uint8))
        codes.dtype = np.dtype(np.uint8)
        shifted += 1
    return shifted
