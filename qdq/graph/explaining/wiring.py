"""Who makes and who reads what in a model, by the numbers of its nodes."""

import onnx

from qdq.graph.explaining.dyes import graphs_of, nodes_of
from qdq.graph.linting.reading import subgraphs


class Wiring:
    """The nodes of a model, those of branches and bodies too, and how they hang together.

    Attributes:
        nodes: in the order of `nodes_of`.
        constants: numbers of those that compute the same in every run.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(nodes_of(model.graph))
        self._maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self._readers.setdefault(name, []).append(index)
        self.constants = self._constants(graphs_of(model.graph))

    def maker(self, name: str) -> int | None:
        """Who makes a tensor; None for an input or an initializer."""
        return self._maker.get(name)

    def ahead(self, index: int) -> list[int]:
        """Who reads what a node makes."""
        names = self.nodes[index].output
        return [each for name in names if name for each in self._readers.get(name, ())]

    def _constants(self, graphs: list[onnx.GraphProto]) -> set[int]:
        given = {each.name for graph in graphs for each in graph.input}
        holders = {
            name
            for graph in graphs
            for number, _ in subgraphs(graph)
            for name in graph.node[number].output
        }
        found: set[int] = set()
        for index, node in enumerate(self.nodes):
            makers = [self._maker.get(name) for name in node.input]
            if (
                all(each is None or each in found for each in makers)
                and given.isdisjoint(node.input)
                and holders.isdisjoint(node.output)
                and not node.op_type.startswith("Random")
            ):
                found.add(index)
        return found
