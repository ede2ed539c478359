"""ReLU, ReLU6 and other clamps between an op and its Q."""

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import QUANTIZE, Array, bypass, is_output, read_instead, values_of
from qdq.graph.speed.quantized import can_give_codes, scalar_grid


def clamp_codes(graph: gs.Graph) -> int:
    """Relu or Clip in front of a Q becomes a clamp of the codes, or nothing at all.

    Requires: Q is all that reads the clamp. Ensures: equal results, as rounding keeps the order:
    Q(clamp(x, a, b)) = clamp(Q(x), Q(a), Q(b)); where Q(a) and Q(b) are the lowest and the highest
    code, Q clamps already. An op on DQs then meets its Q and runs in integers (O03, O04, O05).
    """
    rewritten = 0
    for clamp in [each for each in graph.nodes if each.op in ("Relu", "Clip")]:
        limits = _limits(clamp)
        readers = clamp.outputs[0].outputs
        if limits is None or not readers or is_output(graph, clamp.outputs[0]):
            continue
        ends = [_end_codes(each, clamp.outputs[0], limits) for each in readers]
        if any(each is None for each in ends):
            continue
        idle = all(_is_whole_range(each) for each in ends if each is not None)
        if not idle and not (len(readers) == 1 and _can_clip(graph, clamp, readers[0])):
            continue
        for quantize, codes in zip(list(readers), ends, strict=True):
            if codes is not None and not _is_whole_range(codes):
                _clip_behind(graph, quantize, codes)
        bypass(graph, clamp, clamp.inputs[0])
        rewritten += 1
    return rewritten


def _limits(clamp: gs.Node) -> tuple[float, float] | None:
    if clamp.op == "Relu":
        return 0.0, np.inf
    ends = [-np.inf, np.inf]
    for index in (1, 2):
        if len(clamp.inputs) > index and not clamp.inputs[index].is_empty():
            value = values_of(clamp, index)
            if value is None or value.size != 1:
                return None
            ends[index - 1] = float(value.reshape(()))
    return (ends[0], ends[1]) if ends[0] <= ends[1] else None


def _end_codes(quantize: gs.Node, tensor: gs.Tensor, limits: tuple[float, float]) -> Array | None:
    """(2,) codes of the limits, in the type of the codes; None where this is no Q of `tensor`."""
    grid = scalar_grid(quantize) if quantize.op == QUANTIZE else None
    if grid is None or quantize.inputs[0] is not tensor:
        return None
    scale, zero_point = grid
    kind = np.iinfo(zero_point.dtype)
    with np.errstate(over="ignore"):  # infinity is the highest code too
        codes = np.rint(np.array(limits, np.float32) / scale) + np.float32(zero_point)
    return np.asarray(np.clip(codes, kind.min, kind.max), zero_point.dtype)


def _is_whole_range(codes: Array) -> bool:
    kind = np.iinfo(codes.dtype)
    return bool(codes[0] == kind.min and codes[1] == kind.max)


def _can_clip(graph: gs.Graph, clamp: gs.Node, quantize: gs.Node) -> bool:
    """Whether what makes the clamp's input runs in integers once this Q is right behind it."""
    codes = quantize.outputs[0]
    if is_output(graph, codes) or np.iinfo(quantize.inputs[2].values.dtype).bits != 8:
        return False
    return can_give_codes(graph, clamp.inputs[0])


def _clip_behind(graph: gs.Graph, quantize: gs.Node, ends: Array) -> None:
    """Clip the codes of a Q, on both sides only where that does something."""
    codes, kind = quantize.outputs[0], np.iinfo(ends.dtype)
    clipped = gs.Variable(f"{codes.name}.clipped", ends.dtype, codes.shape)
    read_instead(codes, clipped)
    inputs: list[gs.Tensor] = [codes, gs.Constant(f"{codes.name}.lowest", ends[:1].reshape(()))]
    if ends[1] != kind.max:
        inputs.append(gs.Constant(f"{codes.name}.highest", ends[1:].reshape(())))
    graph.nodes.append(gs.Node("Clip", f"{codes.name}/Clip", {}, inputs, [clipped]))
