"""The places of a stripped graph that a target may quantize, and how they are called."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from qdq.graph.opgraphs import op_graph, products_of
from qdq.graph.quantizing.products import Product
from qdq.graph.quantizing.selection import select
from qdq.graph.retargeting.stripping import Stripped
from qdq.targets.opgraph import Op, OpGraph
from qdq.targets.placement import region_end

_JOINS = frozenset({"add", "mul", "concat", "matmul"})
_SITE = re.compile(r"(?:(?P<owner>.+)\.)?(?P<role>(?:input|weight|output)(?:_\d+)?)")


@dataclass(frozen=True, eq=False)
class Place:
    """An operator with sites.

    Attributes:
        op: what it is in the neutral graph; of that name.
        node: what it is in the ONNX graph.
        owner: what its sites are called after.
        product: as a layer with weights; None for others.
        inputs: which inputs of the node are activations.
    """

    op: Op
    node: gs.Node
    owner: str
    product: Product | None
    inputs: tuple[int, ...]

    @property
    def roles(self) -> dict[str, int]:
        """Role of each activation that comes in -> number of the node's input."""
        if self.op.kind in _JOINS:
            return {f"input_{index}": index for index in self.inputs}
        return dict.fromkeys(("input",) if self.inputs else (), 0)

    @property
    def weight(self) -> int | None:
        """Which input of the node is its weight or table; None where it has none."""
        if self.op.kind == "embedding":
            return 0
        return None if self.product is None else 1

    @property
    def has_output(self) -> bool:
        """Whether a site is behind it."""
        return self.product is not None or self.op.kind in _JOINS

    @property
    def total(self) -> gs.Node:
        """The node whose result leaves it: of a layer, with the bias."""
        return self.node if self.product is None else self.product.total

    def site(self, role: str) -> str:
        """The name of one of its sites."""
        return f"{self.owner}.{role}"


@dataclass(frozen=True, eq=False)
class Map:
    """A stripped graph in both ways of looking at it.

    Attributes:
        ops: the neutral graph.
        places: by the names of their nodes.
        nodes: the node of each op.
    """

    ops: OpGraph
    places: dict[str, Place]
    nodes: dict[str, gs.Node]

    def end_of(self, place: Place) -> tuple[gs.Tensor, tuple[float, float] | None]:
        """The tensor that leaves an operator and the clamp it is fused with, and its limits."""
        number, limits = region_end(self.ops, place.op)
        maker = self.ops.producer[number]
        known = self.places.get(maker.name)
        node = self.nodes[maker.name] if known is None else known.total
        made = [each for each in node.outputs if not each.is_empty()]
        return made[maker.outputs.index(number)], limits

    def read_by(self, place: Place, role: str) -> gs.Tensor:
        """The tensor whose range a site has."""
        return self.end_of(place)[0] if role == "output" else place.node.inputs[place.roles[role]]


def map_of(stripped: Stripped) -> Map:
    """Find the places of a stripped graph. Nodes without a name of their own are given one."""
    graph = stripped.graph
    _name_nodes(graph)
    ops = op_graph(graph)
    nodes = {node.name: node for node in graph.nodes}
    products = products_of(graph)
    sites = select(graph, ops, products, ()).sites
    found = {op.name: op for op in ops.ops if op.name in sites}
    owners = _owners(stripped, found, nodes, products)
    places = {
        name: Place(op, nodes[name], owners[name], products.get(name), _inputs_of(op))
        for name, op in found.items()
    }
    return Map(ops, places, nodes)


def _name_nodes(graph: gs.Graph) -> None:
    taken: set[str] = set()
    for number, node in enumerate(graph.nodes):
        stem = node.name or f"{node.op}_{number}"
        name, more = stem, 0
        while name in taken:
            more += 1
            name = f"{stem}_{more}"
        node.name = name
        taken.add(name)


def _inputs_of(op: Op) -> tuple[int, ...]:
    """Which inputs of a node are activations that a target may quantize."""
    if op.kind == "embedding":
        return ()
    return tuple(range(len(op.inputs))) if op.kind in _JOINS else (0,)


def _owners(
    stripped: Stripped,
    ops: dict[str, Op],
    nodes: dict[str, gs.Node],
    products: dict[str, Product],
) -> dict[str, str]:
    """What each op's sites are called after: what its own file calls it, or its node's name."""
    owners: dict[str, str] = {}
    taken = {each.name for each in stripped.graph.tensors().values()}
    for name in sorted(ops, key=lambda each: each not in products):
        said = (each for each in _said_owners(stripped, ops[name], nodes[name], products.get(name)))
        stem = next((each for each in said if each and each not in owners.values()), "")
        stem = stem or name.strip("/").replace("/", ".") or "node"
        owner, more = stem, 0
        while owner in owners.values() or any(f"{owner}.{each}" in taken for each in _suffixes):
            more += 1
            owner = f"{stem}_{more}"
        owners[name] = owner
    return owners


_suffixes = tuple(
    f"{role}.{part}" for role in ("input", "weight", "output") for part in ("codes", "scale")
)


def _said_owners(
    stripped: Stripped, op: Op, node: gs.Node, product: Product | None
) -> Iterator[str]:
    """Owners in the names of what stands at the op in its own file, the surest first."""
    if product is not None or op.kind == "embedding":
        held = stripped.constants.get(node.inputs[0 if product is None else 1].name)
        if held is not None:
            yield _owner(held.site, "weight")
        return
    for index in range(len(node.inputs)):
        seen = stripped.edges.get((id(node), index))
        if seen is not None:
            yield _owner(seen.site, f"input_{index}" if op.kind in _JOINS else "input")
    seen = stripped.tensors.get(node.outputs[0].name)
    if seen is not None and op.kind in _JOINS:
        yield _owner(seen.site, "output")


def _owner(site: str, role: str) -> str:
    found = _SITE.fullmatch(site)
    return found["owner"] or "" if found is not None and found["role"] == role else ""
