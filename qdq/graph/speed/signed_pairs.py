"""Int8 codes with several readers, quantized anew for each of them."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, hold, is_output, maker_of, read_instead
from qdq.graph.passes import COMMUTING
from qdq.graph.speed.quantized import (
    Grid,
    can_give_codes,
    pair_behind,
    rounds_once,
    scalar_grid,
)


def split_quantizers(graph: gs.Graph) -> int:
    """Each reader of int8 codes gets a Q and a DQ of its own, with initializers of their own.

    Requires: one constant scale and zero point; DQs of the same grid are all that reads the codes.
    Ensures: equal results. x86 kernels want uint8, which onnxruntime makes of int8 codes only
    where they have one reader (O27); Qs that share an initializer would be merged again.
    """
    split = 0
    for quantize in [each for each in graph.nodes if each.op == QUANTIZE]:
        grid, decoders = scalar_grid(quantize), list(quantize.outputs[0].outputs)
        if grid is None or grid[1].dtype != np.int8 or not rounds_once(grid):
            continue
        if is_output(graph, quantize.outputs[0]) or not decoders:
            continue
        if any(each.op != DEQUANTIZE or scalar_grid(each) != grid for each in decoders):
            continue
        split += _split(graph, quantize, decoders, grid)
    return split


def _split(graph: gs.Graph, quantize: gs.Node, decoders: list[gs.Node], grid: Grid) -> bool:
    """Whether there were several readers, each of which now has a pair of its own."""
    first, *others = (each.outputs[0] for each in decoders)
    leaving = [each for each in (first, *others) if is_output(graph, each)]
    readers = {id(node): node for each in (first, *others) for node in each.outputs}
    if len(readers) + len(leaving) < 2 or len(leaving) > 1 or (leaving and others):
        return False
    for each in others:
        read_instead(each, first)
    source = quantize.inputs[0]
    if _can_be_integers(graph, source):  # a second Q behind it would keep it from that (O17)
        hold(graph, decoders[0])
        source, kept = first, None
    else:
        kept = None if leaving else next(iter(readers))
    for key, node in readers.items():
        if key != kept:
            name = f"{first.name}/{node.outputs[0].name}"
            own = pair_behind(graph, source, grid, name)
            node.inputs = [own if each is first else each for each in node.inputs]
    return True


def _can_be_integers(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether what makes a tensor computes or moves codes if one Q stands behind it."""
    maker, moved = maker_of(tensor), False
    while maker is not None and maker.op in COMMUTING:
        tensor, moved = maker.inputs[0], True
        maker = maker_of(tensor)
    held = maker is not None and maker.op == DEQUANTIZE
    return held if moved else can_give_codes(graph, tensor)
