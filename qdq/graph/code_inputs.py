"""Inputs that are codes already: the Q of an input is left to whoever feeds the graph."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qdq.errors import GraphError
from qdq.graph.edges import QUANTIZE, Array, is_output, read_instead, remove, same_grid
from qdq.graph.passes import COMMUTING

NOTE = "qdq.input"  # in a file's metadata


@dataclass(frozen=True)
class CodeInput:
    """What an input of codes stands for: x = (code - zero_point) * scale.

    Attributes:
        scale: unit of x per step.
        zero_point: the code of 0.0.
        channels_last: it is (N, H, W, C) where the model takes (N, C, H, W).
    """

    scale: float
    zero_point: int
    channels_last: bool

    @property
    def is_sound(self) -> bool:
        """Whether it can be what it says, wherever it comes from."""
        sized = type(self.scale) is float and 0 < self.scale < float("inf")
        return sized and type(self.zero_point) is int and 0 <= self.zero_point <= 255

    def codes_of(self, x: Array) -> Array:
        """The uint8 codes of floats as the model takes them: QuantizeLinear, then the order."""
        steps = np.rint(x.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        codes: Array = np.clip(steps, 0, 255).astype(np.uint8)
        return codes.transpose(0, 2, 3, 1) if self.channels_last and codes.ndim == 4 else codes


def noted_inputs(notes: Mapping[str, str]) -> dict[str, CodeInput]:
    """Input -> what its codes stand for, as our export noted it; a note of another form is none.

    Args:
        notes: the metadata of a file.
    """
    try:
        found = json.loads(notes.get(NOTE, "{}"))
        inputs = {name: CodeInput(**each) for name, each in found.items()}
        return {name: each for name, each in inputs.items() if each.is_sound}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def take_codes(graph: gs.Graph, *, channels_last: bool = False) -> dict[str, CodeInput]:
    """Let every float input of the graph take its uint8 codes instead, in place.

    With the codes that the Q would have computed, the graph computes what it did, bit for bit.
    Nodes before the Q that only move values or choose among them do that with codes. Inputs of
    integers and booleans stay as they are.

    Args:
        graph: lowered to Q and DQ.
        channels_last: inputs of four axes come as (N, H, W, C), as cameras and decoders give them,
            and are transposed; onnxruntime's kernels want them so and cancel that.

    Returns:
        Name of the input -> its grid.

    Raises:
        GraphError: there is no float input; one is read by something else than Q of one uint8
            grid; or none has four axes, with `channels_last`.
    """
    inputs = [each for each in graph.inputs if np.issubdtype(each.dtype, np.floating)]
    if not inputs:
        raise GraphError("the graph has no float input", fix='leave out input="uint8"')
    grids = {each.name: _grid_of(_moved(graph, each)[-1]) for each in inputs}
    images = [each for each in inputs if channels_last and len(each.shape or ()) == 4]
    if channels_last and not images:
        shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
        raise GraphError(f"no input has four axes: {shapes}", fix='pass input="uint8"')
    for each in inputs:
        _rewrite(graph, each, channels_last=each in images)
    return {each.name: CodeInput(*grids[each.name], each in images) for each in inputs}


def _moved(graph: gs.Graph, tensor: gs.Tensor) -> list[gs.Tensor]:
    """The tensor, and what nodes make of it on its way to the Q that compute nothing."""
    way = [tensor]
    while len(way[-1].outputs) == 1:
        (node,) = way[-1].outputs
        if node.op not in COMMUTING or len(node.outputs) != 1 or is_output(graph, node.outputs[0]):
            break
        way.append(node.outputs[0])
    return way


def _grid_of(tensor: gs.Tensor) -> tuple[float, int]:
    """Scale and zero point of what is read of an input."""
    readers = tensor.outputs
    ops = sorted({each.op for each in readers})
    if ops != [QUANTIZE] or not all(same_grid(readers[0], each) for each in readers):
        found = "Q of several grids" if ops == [QUANTIZE] else ", ".join(ops) or "nothing"
        raise GraphError(
            f"the input is read by {found}, not by Q of one grid alone",
            at=tensor.name,
            fix='leave out input="uint8", or quantize every layer that reads this input',
        )
    _, scale, zero_point = readers[0].inputs
    if zero_point.values.dtype != np.uint8 or zero_point.values.ndim:
        raise GraphError(
            f"the codes of the input are {zero_point.values.dtype}, not uint8 of one scale",
            at=tensor.name,
            fix='export for target "onnxruntime", or leave out input="uint8"',
        )
    return float(scale.values), int(zero_point.values)


def _rewrite(graph: gs.Graph, tensor: gs.Variable, *, channels_last: bool) -> None:
    codes: gs.Tensor = tensor
    way, readers = _moved(graph, tensor), list(tensor.outputs)
    quantizers = list(way[-1].outputs)
    for each in way:
        each.dtype = np.dtype(np.uint8)
    if channels_last:
        batch, channels, height, width = tensor.shape
        codes = gs.Variable(f"{tensor.name}.nchw", np.uint8, tensor.shape)
        tensor.shape = [batch, height, width, channels]
        name, order = f"{tensor.name}/Transpose", {"perm": [0, 3, 1, 2]}
        for reader in readers:
            reader.inputs = [codes if each is tensor else each for each in reader.inputs]
        graph.nodes.insert(0, gs.Node("Transpose", name, order, [tensor], [codes]))
    last = way[-1] if len(way) > 1 else codes
    for quantize in quantizers:
        read_instead(quantize.outputs[0], last)
        remove(graph, quantize)
