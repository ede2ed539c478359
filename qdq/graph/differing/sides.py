"""One of the two files that are compared."""

import os
from collections import Counter
from pathlib import Path

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from qdq.errors import GraphError
from qdq.graph.edges import Array
from qdq.graph.linting.reading import read_model, subgraphs


class Side:
    """A file, taken apart into what has names.

    Attributes:
        model: as it was read; values outside the file are not in it.
        opsets: domain -> version.
        nodes: name -> node; inside a branch or body "holder/name", equal names numbered.
        held: name -> initializer.
        inputs: name -> type and shape, in words.
        outputs: likewise.
        readers: tensor -> its first reader, and as which input.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.model = Path(path), read_model(path)
        graph = self.model.graph
        self._taken: Counter[str] = Counter()
        self.opsets = {
            entry.domain or "ai.onnx": str(entry.version) for entry in self.model.opset_import
        }
        self.nodes: dict[str, NodeProto] = {}
        self.held: dict[str, TensorProto] = {}
        self._collect(graph)
        self.inputs = {each.name: _type(each) for each in graph.input if each.name not in self.held}
        self.outputs = {each.name: _type(each) for each in graph.output}
        self.readers: dict[str, tuple[NodeProto, int]] = {}
        for node in self.nodes.values():
            for place, name in enumerate(node.input):
                self.readers.setdefault(name, (node, place))

    def values(self, name: str) -> Array:
        """What an initializer holds, also outside the file."""
        try:
            values: Array = numpy_helper.to_array(self.held[name], str(self.path.parent.absolute()))
        except Exception as error:
            raise GraphError(
                f"the values of {name!r} cannot be read: {str(error).strip().splitlines()[0]}",
                at=str(self.path),
                fix="keep the file with its external data together",
            ) from error
        return values

    def grid(self, quantizer: NodeProto) -> tuple[object, ...]:
        """By what a Q is known again where its name is not: scale and zero point."""
        found: list[object] = []
        for name in quantizer.input[1:]:
            found.append(self.values(name).tobytes() if name in self.held else name)
        return tuple(found)

    def _collect(self, graph: GraphProto, inside: str = "") -> None:
        for node in graph.node:
            name = inside + (node.name or f"{node.op_type} -> {next(iter(node.output), '')}")
            self._taken[name] += 1  # names of nodes need not differ
            count = self._taken[name]
            self.nodes[name if count == 1 else f"{name} ({count})"] = node
        self.held |= {each.name: each for each in graph.initializer}
        for number, inner in subgraphs(graph):
            self._collect(inner, f"{inside}{graph.node[number].name or number}/")


def _type(info: ValueInfoProto) -> str:
    kind = info.type.tensor_type
    sizes = [
        str(each.dim_value) if each.HasField("dim_value") else str(each.dim_param) or "?"
        for each in kind.shape.dim
    ]
    shape = f"({', '.join(sizes)})" if kind.HasField("shape") else "of any shape"
    return f"{TensorProto.DataType.Name(kind.elem_type).lower()} {shape}"
