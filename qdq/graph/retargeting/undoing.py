"""Taking back rewrites that only onnxruntime's kernels are faster for: T-form files want none."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import Array, is_output, maker_of, read_instead, remove, values_of
from qdq.graph.retargeting.grids import HeldCodes

_TO_THE_END = 2**31 - 1


def slice_for_convolutions(graph: gs.Graph, constants: dict[str, HeldCodes]) -> None:
    """A 1x1 convolution by 0 and 1 that gives its channels as they are becomes Slice and Pad.

    `qdq.graph.speed` picks the pixels of shortcuts by such, on codes.
    """
    for conv in [each for each in graph.nodes if each.op == "Conv" and not each.domain]:
        weight = constants.get(conv.inputs[1].name)
        if weight is None or len(conv.inputs) > 2 or is_output(graph, conv.outputs[0]):
            continue
        before = _kept_from(weight.values())
        plain = not np.any(conv.attrs.get("pads", 0)) and conv.attrs.get("group", 1) == 1
        if before is None or not plain or conv.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        outputs, inputs = weight.codes.shape[:2]
        source, result, strides = conv.inputs[0], conv.outputs[0], conv.attrs.get("strides", [1, 1])
        remove(graph, conv)
        pads = [0, before, 0, 0, 0, outputs - inputs - before, 0, 0]
        sliced = _sliced(graph, source, [int(each) for each in strides], result.name)
        _padded(graph, sliced, pads, result)


def drop_padding(graph: gs.Graph, constants: dict[str, HeldCodes]) -> None:
    """Channels of zeros that are added in front of a convolution go, with what they meet."""
    for conv in [each for each in graph.nodes if each.op == "Conv" and not each.domain]:
        pad, held = maker_of(conv.inputs[0]), constants.get(conv.inputs[1].name)
        if pad is None or pad.op != "Pad" or held is None or conv.attrs.get("group", 1) != 1:
            continue
        more = _channels_behind(pad)
        width = held.codes.shape[1] - more
        if not more or width <= 0 or held.values()[:, width:].any():
            continue
        if len(conv.inputs[1].outputs) != 1 or held.axis == 1:
            continue
        codes = np.ascontiguousarray(held.codes[:, :width])
        narrow = HeldCodes(codes, held.scale, held.zero_point, held.axis, held.site)
        name = conv.inputs[1].name
        constants[name] = narrow
        conv.inputs[1] = gs.Constant(name, narrow.values())
        conv.inputs[0] = pad.inputs[0]


def _kept_from(weight: Array) -> int | None:
    """Number of the first output that is an input as it is; None unless all inputs follow it."""
    if weight.ndim != 4 or weight.shape[2:] != (1, 1) or weight.shape[0] < weight.shape[1]:
        return None
    matrix = weight[:, :, 0, 0]
    first = int(np.argmax(matrix[:, 0] != 0))
    wanted = np.zeros_like(matrix)
    rows = min(matrix.shape[1], matrix.shape[0] - first)
    wanted[first : first + rows, :rows] = np.eye(rows, dtype=matrix.dtype)
    return first if rows == matrix.shape[1] and np.array_equal(matrix, wanted) else None


def _sliced(graph: gs.Graph, source: gs.Tensor, strides: list[int], stem: str) -> gs.Tensor:
    if strides == [1, 1]:
        return source
    rows = ((0, 0), (_TO_THE_END, _TO_THE_END), (2, 3), strides)
    words = ("starts", "ends", "axes", "steps")
    given = [
        gs.Constant(f"{stem}.{word}", np.array(row, np.int64))
        for word, row in zip(words, rows, strict=True)
    ]
    result = gs.Variable(f"{stem}.sliced", np.float32)
    graph.nodes.append(gs.Node("Slice", f"{stem}/Slice", {}, [source, *given], [result]))
    return result


def _padded(graph: gs.Graph, source: gs.Tensor, pads: list[int], result: gs.Variable) -> None:
    if not any(pads):
        read_instead(result, source)
        return
    given = [source, gs.Constant(f"{result.name}.pads", np.array(pads, np.int64))]
    graph.nodes.append(gs.Node("Pad", f"{result.name}/Pad", {}, given, [result]))


def _channels_behind(pad: gs.Node) -> int:
    """How many channels of zeros a Pad adds at the end; 0 if it does anything else."""
    pads, value = values_of(pad, 1), values_of(pad, 2)
    free = len(pad.inputs) > 3 or (len(pad.inputs) > 2 and value is None)
    if pads is None or free or (value is not None and value.any()):
        return 0
    if pad.attrs.get("mode", "constant") != "constant" or pads.size < 6:
        return 0
    rest = np.delete(pads, pads.size // 2 + 1)
    return 0 if rest.any() else max(int(pads[pads.size // 2 + 1]), 0)
