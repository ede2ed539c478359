"""Small changes of a model: what every fix is made of."""

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from qdq.graph.linting.nodes import DQ, Array, Node
from qdq.graph.linting.view import View, names_read


class Edits:
    """Changes to the main graph of a model, each seen by the next `View` of it.

    Args:
        model: is changed in place.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model, self.count = model, 0
        graph = model.graph
        self._taken = {each.name for each in (*graph.initializer, *graph.input, *graph.value_info)}
        self._taken |= {name for node in graph.node for name in (*node.input, *node.output)}
        self._read = names_read(graph)

    def hold(self, name: str, values: Array) -> str:
        """A new initializer; gives its name, which is like that one."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def feed(self, node: Node, index: int, tensor: str) -> None:
        """Let a node read another tensor at one of its inputs."""
        while len(node.proto.input) <= index:
            node.proto.input.append("")
        node.proto.input[index] = tensor
        self.count += 1

    def redirect(self, view: View, tensor: str, instead: str) -> None:
        """Let all nodes that read a tensor read another one."""
        for use in view.readers(tensor):
            if use.node is not None and use.index >= 0:
                self.feed(use.node, use.index, instead)

    def remove(self, nodes: list[Node]) -> None:
        """Take nodes out whose results nobody reads."""
        going = {node.result for node in nodes}
        kept = [each for each in self.model.graph.node if going.isdisjoint(each.output)]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        self.count += len(nodes)

    def put_in_front(self, node: Node, op: str, *inputs: str, axis: int) -> None:
        """Let a new node of one output compute what a node reads first."""
        name = f"{node.input(0)}.{op}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        made = helper.make_node(op, inputs, [name], name=name, axis=axis)
        index = next(i for i, each in enumerate(self.model.graph.node) if each is node.proto)
        self.model.graph.node.insert(index, made)
        self.feed(node, 0, name)

    def forget_type(self, tensor: str) -> None:
        """Drop what the file notes of a tensor's type."""
        infos = self.model.graph.value_info
        for index in reversed([i for i, each in enumerate(infos) if each.name == tensor]):
            del infos[index]

    def forget_unread(self) -> None:
        """Drop the initializers that were read before and are no more."""
        graph = self.model.graph
        unread = self._read - names_read(graph) - {each.name for each in graph.input}
        held = graph.initializer
        for index in reversed([i for i, each in enumerate(held) if each.name in unread]):
            del held[index]

    def set_attribute(self, node: Node, name: str, value: int) -> None:
        """Give an integer attribute a value."""
        for each in node.proto.attribute:
            if each.name == name:
                each.i = value
                self.count += 1


def is_read_by_nodes_only(view: View, tensor: str) -> bool:
    """Whether it is no output of the graph, and no branch or body reads it."""
    return all(use.node is not None and use.index >= 0 for use in view.readers(tensor))


def readers_are_dq(view: View, tensor: str) -> list[Node] | None:
    """The DQ that read codes; None if anything else does, or nothing."""
    uses = view.readers(tensor)
    found = [use.node for use in uses if use.node is not None and use.op == DQ and use.index == 0]
    return found if found and len(found) == len(uses) else None


def zeros_like(values: Array, kind: type[np.integer]) -> Array:
    """Zeros of the same shape and another type."""
    return np.zeros(values.shape, kind)
