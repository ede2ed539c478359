"""An ONNX graph as rules ask about it: makers, readers, constants. Nothing is changed by it."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cached_property

import onnx
from onnx import (
    GraphProto,
    ModelProto,
    TensorProto,
)

from qdq.graph.linting.nodes import (
    DQ,
    MOVERS,
    WEIGHTED,
    Array,
    Node,
    Q,
    Use,
    array_of,
    constant_of,
    node_of,
)
from qdq.graph.linting.reading import opset_of, subgraphs

_FAR = 5_000  # tensors a walk visits before it gives up; a net's own walks are far shorter


class View:
    """One graph of a model.

    Args:
        model: the model.
        graph: it or a branch or body in it; None: the main graph.
        outer: the view of the graph around it.
    """

    def __init__(
        self, model: ModelProto, graph: GraphProto | None = None, outer: "View | None" = None
    ) -> None:
        graph = model.graph if graph is None else graph
        self.opset, self.outer = opset_of(model), outer
        self.nodes = [node_of(each) for each in graph.node]
        self.inputs = {each.name for each in graph.input}
        self.outputs = {each.name for each in graph.output}
        self._model, self._graph = model, graph
        self._held: dict[str, TensorProto] = {each.name: each for each in graph.initializer}
        self._sparse = {each.values.name for each in graph.sparse_initializer}
        self._makers = {name: node for node in self.nodes for name in node.outputs if name}
        self._values: dict[str, Array | None] = {}
        self._uses: dict[str, list[Use]] = defaultdict(list)
        for node in self.nodes:
            for index, name in enumerate(node.inputs):
                self._uses[name].append(Use(node, index))
        self.inner = [(self.nodes[number], inner) for number, inner in subgraphs(graph)]
        for holder, inner in self.inner:
            for name in names_read(inner):
                self._uses[name].append(Use(holder, -1))

    def of(self, *ops: str) -> Iterator[Node]:
        """The nodes of these operators, in the order of the file."""
        return (node for node in self.nodes if node.op in ops)

    def pairs(self) -> Iterator[Node]:
        """The DequantizeLinear of every pair on an activation."""
        return (node for node in self.of(DQ) if not self.is_constant(node.input(0)))

    def maker(self, tensor: str) -> Node | None:
        """The node that makes a tensor; None for inputs and initializers."""
        found = self._makers.get(tensor)
        if (
            found is None
            and self.outer is not None
            and tensor not in self.inputs | self._held.keys()
        ):
            return self.outer.maker(tensor)
        return found

    def op(self, tensor: str) -> str:
        """The operator that makes a tensor; "" for inputs and initializers."""
        node = self.maker(tensor)
        return node.op if node is not None else ""

    def readers(self, tensor: str) -> list[Use]:
        """Who reads a tensor; an output of the graph is one."""
        return [*([Use(None)] if tensor in self.outputs else []), *self._uses.get(tensor, ())]

    def uses(self, tensor: str, through: Collection[str]) -> list[Use]:
        """Who reads the values of a tensor, forward through operators of `through`."""
        found, seen, work = [], {tensor}, [tensor]
        while work and len(seen) < _FAR:
            for use in self.readers(work.pop()):
                passes = use.index == 0 or use.op == "Concat"
                if use.node is None or use.op not in through or not passes:
                    found.append(use)
                    continue
                fresh = [name for name in use.node.outputs if name and name not in seen]
                seen.update(fresh)
                work += fresh
        return found

    def source(self, tensor: str, through: Collection[str]) -> str:
        """The tensor it comes from, back through the first inputs of operators of `through`."""
        for _ in range(_FAR):
            node = self.maker(tensor)
            if node is None or node.op not in through or not node.inputs:
                break
            tensor = node.inputs[0]
        return tensor

    def dq(self, tensor: str, through: Collection[str] = ()) -> Node | None:
        """The DequantizeLinear a tensor comes from, back through operators of `through`."""
        node = self.maker(self.source(tensor, through))
        return node if node is not None and node.op == DQ else None

    def pair(self, dequantizer: Node) -> Node | None:
        """The QuantizeLinear right in front of a DequantizeLinear."""
        node = self.maker(dequantizer.input(0))
        return node if node is not None and node.op == Q else None

    def bare(self, tensor: str) -> str:
        """The float tensor in front of the pairs that make `tensor`; itself without one."""
        for _ in range(_FAR):
            dequantizer = self.dq(tensor)
            quantizer = self.pair(dequantizer) if dequantizer is not None else None
            if quantizer is None:
                break
            tensor = quantizer.input(0)
        return tensor

    def layer(self, tensor: str) -> Node | None:
        """The node with weights that a tensor leaves, its bias or BatchNormalization added."""
        node = self.maker(tensor)
        if node is not None and node.op == "BatchNormalization":
            node = self.maker(node.input(0))
        if node is not None and node.op == "Add":
            moving = self.moving(node)
            node = self.maker(moving[0]) if len(moving) == 1 else None
        return node if node is not None and node.op in WEIGHTED else None

    def moving(self, node: Node) -> list[str]:
        """The inputs of a node that depend on the inputs of the graph."""
        return [name for name in node.inputs if name and not self.is_constant(name)]

    def quantized(self, node: Node) -> list[str]:
        """The inputs of a node that hold dequantized codes, moved or not."""
        return [name for name in node.inputs if name and self.dq(name, MOVERS) is not None]

    def is_constant(self, tensor: str) -> bool:
        """Whether nothing that is fed to the graph can change it."""
        return tensor in self._constants or (
            self.outer is not None and self.outer.is_constant(tensor)
        )

    def is_overridden(self, tensor: str) -> bool:
        """Whether an initializer is only the default of an input, from IR version 4 on."""
        return self._model.ir_version >= 4 and tensor in self._held and tensor in self.inputs

    def held(self, tensor: str) -> TensorProto | None:
        """The initializer or Constant behind a name, seen through Identity."""
        for _ in range(_FAR):
            if tensor in self._held:
                return self._held[tensor]
            node = self._makers.get(tensor)
            if node is not None and node.op == "Constant":
                return constant_of(node)
            if node is None or node.op != "Identity":
                break
            tensor = node.input(0)
        return self.outer.held(tensor) if self.outer is not None else None

    def value(self, tensor: str) -> Array | None:
        """The values of a constant that lies in the file; None for all else."""
        if tensor not in self._values:
            held = self.held(tensor)
            inside = held is not None and held.data_location != TensorProto.EXTERNAL
            self._values[tensor] = array_of(held) if held is not None and inside else None
        return self._values[tensor]

    def kind(self, tensor: str) -> int:
        """Its TensorProto type where the file says it; UNDEFINED elsewhere."""
        held = self.held(tensor)
        return TensorProto.UNDEFINED if held is None else held.data_type

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """Its lengths, None where they are free; None if nothing tells."""
        held = self.held(tensor)
        return tuple(held.dims) if held is not None else self._shapes.get(tensor)

    @cached_property
    def _constants(self) -> set[str]:
        known = {*self._held, *self._sparse, ""}
        for node in self.nodes:  # in topological order, the checker has seen to it
            held_inside = any(node is holder for holder, _ in self.inner)
            if (
                not held_inside
                and not node.op.startswith("Random")
                and known.issuperset(node.inputs)
            ):
                known.update(node.outputs)
        return known

    @cached_property
    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        try:
            graph = onnx.shape_inference.infer_shapes(self._model).graph
        except Exception:  # whatever it objects to: shapes are only a help here
            graph = self._graph
        return {
            each.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in each.type.tensor_type.shape.dim
            )
            for each in (*graph.value_info, *graph.input, *graph.output)
            if each.type.tensor_type.HasField("shape")
        }


def views(model: ModelProto) -> list[View]:
    """A view of every graph of a model: the main one, then branches and bodies."""
    found = [View(model)]
    for view in found:  # grows meanwhile
        found += [View(model, inner, view) for _, inner in view.inner]
    return found


def names_read(graph: GraphProto) -> set[str]:
    """What a graph and those inside it read; its own names are among them and do no harm."""
    names = {name for node in graph.node for name in node.input if name}
    names |= {each.name for each in graph.output}
    return names.union(*(names_read(inner) for _, inner in subgraphs(graph)))
