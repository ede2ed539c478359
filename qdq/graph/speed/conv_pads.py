"""Pad in front of a convolution: the convolution pads by itself."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import DEQUANTIZE, QUANTIZE, bypass, is_output, values_of
from qdq.graph.speed.geometry import geometry


def fold_pads(graph: gs.Graph) -> int:
    """A Pad with zeros that only convolutions read becomes pads of these convolutions.

    Requires: constant, non-negative pads on spatial axes; Q and DQ may stand between. Ensures:
    equal results, as the code of 0 is the zero point that an integer convolution pads with. What
    is before the Pad then meets its Q (O02).
    """
    folded = 0
    for pad in [each for each in graph.nodes if each.op == "Pad"]:
        pads = _zeros_around(pad)
        convs = _only_convs(graph, pad.outputs[0])
        if pads is None or not convs or any(_shape(each, pads) is None for each in convs):
            continue
        for conv in convs:
            conv.attrs["pads"] = _shape(conv, pads)
            conv.attrs.pop("auto_pad", None)
        bypass(graph, pad, pad.inputs[0])
        folded += 1
    return folded


def _zeros_around(pad: gs.Node) -> list[int] | None:
    """(begin..., end...) of all axes; None where they are not constant or not of zeros."""
    amounts, value, axes = (values_of(pad, index) for index in (1, 2, 3))
    given = [len(pad.inputs) > index and not pad.inputs[index].is_empty() for index in (2, 3)]
    if pad.attrs.get("mode", "constant") != "constant" or amounts is None:
        return None
    if (given[0] and (value is None or np.any(value != 0))) or (given[1] and axes is None):
        return None
    if axes is None:
        return [int(each) for each in amounts]
    rank = len(pad.inputs[0].shape or ())
    whole = [0] * 2 * rank
    for place, axis in enumerate(axes.tolist() if rank else ()):
        whole[axis % rank] = int(amounts[place])
        whole[axis % rank + rank] = int(amounts[place + len(axes)])
    return whole or None


def _only_convs(graph: gs.Graph, tensor: gs.Tensor) -> list[gs.Node]:
    """The Convs that read a tensor as their data, through Q and DQ; none if others read it too."""
    if is_output(graph, tensor):
        return []
    found: list[gs.Node] = []
    for reader in tensor.outputs:
        if sum(each is tensor for each in reader.inputs) != 1 or reader.inputs[0] is not tensor:
            return []
        if reader.op == "Conv":
            found.append(reader)
        elif reader.op in (QUANTIZE, DEQUANTIZE) and (
            behind := _only_convs(graph, reader.outputs[0])
        ):
            found += behind
        else:
            return []
    return found


def _shape(conv: gs.Node, pads: list[int]) -> list[int] | None:
    """The pads attribute of a Conv with these pads added; None where that cannot be."""
    weight = conv.inputs[1]
    rank = len(pads) // 2
    here = geometry(conv, (0,) * rank)
    if here is None or min(pads) < 0 or any(pads[:2] + pads[rank : rank + 2]):
        return None
    if weight.shape is not None and len(weight.shape) != rank:
        return None
    own = (*here.begin, *here.end)
    return [a + b for a, b in zip(own, pads[2:rank] + pads[rank + 2 :], strict=True)]
