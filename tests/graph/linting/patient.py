"""A model under the knife: reading and changing its nodes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import ModelProto, NodeProto, helper, numpy_helper

Q, DQ = "QuantizeLinear", "DequantizeLinear"


class Patient:
    """A copy of a model that injuries change."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.graph.ClearField("value_info")

    def of(self, *ops: str) -> Iterator[NodeProto]:
        return (node for node in list(self.graph.node) if node.op_type in ops)

    def maker(self, tensor: str) -> NodeProto | None:
        return next((node for node in self.graph.node if tensor in node.output), None)

    def readers(self, tensor: str) -> list[NodeProto]:
        return [node for node in self.graph.node if tensor in node.input]

    def values(self, tensor: str) -> Any:
        held = next(each for each in self.graph.initializer if each.name == tensor)
        return numpy_helper.to_array(held)

    def hold(self, values: ArrayLike, kind: Any) -> str:
        name = f"injury{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def insert(self, before: NodeProto, *nodes: NodeProto) -> None:
        place = list(self.graph.node).index(before)
        for offset, node in enumerate(nodes):
            self.graph.node.insert(place + offset, node)

    def pair(self, reader: NodeProto, like: NodeProto | None = None, scale: float = 0.05) -> None:
        """Put a pair between a node and its first input, of the grid of another Q or DQ."""
        kind = np.int8 if like is None else self.values(like.input[2]).dtype
        grid = [self.hold(scale, np.float32), self.hold(0, kind)]
        if like is not None:
            grid = list(like.input[1:3])
        tensor, stem = reader.input[0], f"{reader.output[0]}.pair"
        quantizer = helper.make_node(Q, [tensor, *grid], [f"{stem}.codes"])
        dequantizer = helper.make_node(DQ, [f"{stem}.codes", *grid], [stem])
        self.insert(reader, quantizer, dequantizer)
        reader.input[0] = stem

    def unpair(self, tensor: str) -> bool:
        """Let who reads a dequantized tensor read the float one."""
        dequantizer = self.maker(tensor)
        quantizer = self.maker(dequantizer.input[0]) if dequantizer is not None else None
        if quantizer is None or quantizer.op_type != Q:
            return False
        for node in self.readers(tensor):
            node.input[:] = [quantizer.input[0] if each == tensor else each for each in node.input]
        for node in (dequantizer, quantizer):
            if not self.readers(node.output[0]):
                self.graph.node.remove(node)
        return True

    def float_weight(self, layer: NodeProto) -> bool:
        dequantizer = self.maker(layer.input[1])
        if dequantizer is None or dequantizer.op_type != DQ:
            return False
        shape = self.values(dequantizer.input[0]).shape
        layer.input[1] = self.hold(np.ones(shape), np.float32)
        return True

    def between(
        self, makers: tuple[str, ...], reader: str
    ) -> Iterator[tuple[NodeProto, NodeProto]]:
        """Nodes of these operators, and their only reader of that one."""
        for node in self.of(*makers):
            readers = self.readers(node.output[0])
            if len(readers) == 1 and readers[0].op_type == reader:
                yield node, readers[0]
