"""A net's time, op by op and in all, for any choice of what runs in integers."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isinf, prod

from qdq.targets.costs.bills import float_bill, integer_bill
from qdq.targets.costs.tables import CostTable, cost_table
from qdq.targets.costs.widths import padded_widths
from qdq.targets.opgraph import CLAMPS, PARTING, TRANSPARENT, Op, OpGraph

# Ops that take no time of their own next to the op before them.
PASSING = TRANSPARENT.union(CLAMPS, PARTING)
# Ops without a pair of their own behind them: in integers only if all that reads them is.
_CLOSED = frozenset({"avg_pool", "resize"})
# Ops whose time nobody measured: they stay float, and of a net that has one no ratio can be told.
UNMEASURED = frozenset({"lstm", "gru", "rnn", "rnn_tanh", "lstm_cell", "gru_cell"})


@dataclass(frozen=True)
class Edge:
    """A tensor as ops that take time read it.

    Attributes:
        tensor: its number.
        maker: name of the op that takes time and makes it; "" for an input of the model.
        readers: names of the ops that read it; "" for an output of the model.
        enter: nanoseconds of making codes of it.
        leave: nanoseconds of making floats of its codes; infinite where that cannot be.
    """

    tensor: int
    maker: str
    readers: tuple[str, ...]
    enter: float
    leave: float


@dataclass(frozen=True)
class PricedNet:
    """One forward with a table of costs; `price_net` makes it.

    Attributes:
        graph: the forward, with shapes.
        table: the prices.
    """

    graph: OpGraph
    table: CostTable

    @cached_property
    def steps(self) -> dict[str, tuple[Op, ...]]:
        """The ops that take time, by name, in order; of a layer called again, every call."""
        varying = self.graph.varying
        found: dict[str, tuple[Op, ...]] = {}
        for op in self.graph.ops:
            if op.kind not in PASSING and not varying.isdisjoint(op.outputs):
                found[op.name] = (*found.get(op.name, ()), op)
        return found

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """What the ops that take time read, and the model's outputs."""
        readers: dict[int, list[str]] = {}
        for name, calls in self.steps.items():
            for tensor in dict.fromkeys(each for op in calls for each in op.inputs):
                readers.setdefault(tensor, []).append(name)
        for tensor in dict.fromkeys(self.graph.outputs):
            readers.setdefault(tensor, []).append("")
        return tuple(
            self._edge(tensor, tuple(names))
            for tensor, names in readers.items()
            if tensor in self.graph.varying
        )

    @cached_property
    def float_ns(self) -> dict[str, float]:
        """Nanoseconds of each op that takes time, in float."""
        return {
            name: sum(self.table.price(float_bill(op, self.graph)) for op in calls)
            for name, calls in self.steps.items()
        }

    def integer_ns(
        self, integer: Collection[str], *, padded_for: Collection[str] | None = None
    ) -> dict[str, float]:
        """Nanoseconds of each of these ops in integers.

        Args:
            integer: names of ops.
            padded_for: what runs in integers while channels are padded; None: these ops.
        """
        widths = padded_widths(self.graph, integer if padded_for is None else padded_for)
        return {
            name: sum(self.table.price(integer_bill(op, self.graph, widths)) for op in calls)
            for name, calls in self.steps.items()
            if name in integer
        }

    def running(self, integer: Collection[str]) -> frozenset[str]:
        """Those of these ops that do run in integers, next to the others."""
        running = frozenset(integer)
        while stuck := {
            edge.maker
            for edge in self.edges
            if edge.maker in running and isinf(edge.leave) and not running.issuperset(edge.readers)
        }:
            running -= stuck
        return running

    def total(self, integer: Collection[str] = ()) -> float:
        """Nanoseconds of one forward, if these ops run in integers and all others in float."""
        own = self.integer_ns(self.running(integer))
        spent = sum(own.get(name, ns) for name, ns in self.float_ns.items())
        for edge in self.edges:
            coded = [each for each in edge.readers if each in own]
            if edge.maker in own:
                spent += edge.leave if len(coded) < len(edge.readers) else 0.0
            else:
                spent += edge.enter if coded else 0.0
        return spent + self.table.price([("session", {"call": 1.0})])

    def _edge(self, tensor: int, readers: tuple[str, ...]) -> Edge:
        maker = self._maker(tensor)
        shape = self.graph.shapes[tensor]
        terms = {"element": prod(shape), "call": 1.0}
        spatial = any(self.steps[each][0].kind != "linear" for each in readers if each)
        image = len(shape) > 2 and spatial
        way_in = "vector.in" if not image else "map.in" if maker else "image.in"
        way_out = "map.out" if len(shape) > 2 and maker and maker.kind != "linear" else "vector.out"
        leave = self.table.price([(way_out, terms)])
        if maker is None or maker.kind == "linear":  # a Gemm gives floats by itself
            leave = 0.0
        elif maker.kind in _CLOSED:
            leave = inf
        enter = self.table.price([(way_in, terms)])
        return Edge(tensor, maker.name if maker else "", readers, enter, leave)

    def _maker(self, tensor: int) -> Op | None:
        """The op that takes time and makes this tensor; None for an input of the model."""
        maker = self.graph.producer.get(tensor)
        while maker is not None and maker.kind in PASSING:
            maker = self.graph.producer.get(maker.inputs[0])
        return maker


def price_net(graph: OpGraph, table: CostTable) -> PricedNet | None:
    """A forward of one row and what it costs; None where nobody recorded the shapes.

    Args:
        graph: one forward; of several rows, one is taken.
        table: the prices.
    """
    needed = graph.varying.intersection(
        {*graph.outputs, *(tensor for op in graph.ops for tensor in (*op.inputs, *op.outputs))}
    )
    if not graph.ops or not needed <= graph.shapes.keys():
        return None
    return PricedNet(replace(graph, shapes=_of_one_row(graph)), table)


def predict_ratio(graph: OpGraph | None, costs: str, integer: Collection[str]) -> float | None:
    """Time of one forward over that in float; None where it cannot be told.

    Args:
        graph: one forward; None where nobody followed it.
        costs: name or path of a table; empty: there is none.
        integer: names of the ops that run in integers.

    Raises:
        InputError: there is no such table.
    """
    net = price_net(graph, cost_table(costs)) if graph is not None and costs else None
    if net is None or not UNMEASURED.isdisjoint(calls[0].kind for calls in net.steps.values()):
        return None
    return net.total(integer) / net.total() if net.total() else None


def _of_one_row(graph: OpGraph) -> dict[int, tuple[int, ...]]:
    """Shapes as for a batch of one: a first axis in which the rows lie holds one of them."""
    first = graph.shapes[graph.inputs[0]] if graph.inputs else ()
    images = [op for op in graph.ops if op.kind == "conv" and op.weight]
    single = any(len(graph.shapes[op.inputs[0]]) < len(op.weight) for op in images)
    rows = first[0] if len(first) > 1 and not single else 1
    return {
        tensor: (shape[0] // rows, *shape[1:])
        if tensor in graph.varying and shape and rows > 1 and shape[0] % rows == 0
        else shape
        for tensor, shape in graph.shapes.items()
    }
