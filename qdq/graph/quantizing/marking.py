"""Where the pairs go: a marker node at every site that is on, and the grid it is lowered to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from qdq.graph.edges import is_output, made_by, only_reader
from qdq.graph.lowering import SiteGrid
from qdq.graph.opgraphs import kind_of
from qdq.graph.quantizing.grids import (
    activation_grid,
    bias_grid,
    least_weight_scale,
    weight_grid,
)
from qdq.graph.quantizing.products import Product
from qdq.numerics.thresholds import Choice
from qdq.sites import is_weight, owner
from qdq.targets import Target
from qdq.targets.opgraph import CLAMPS

MARKER = "Site"
_DOMAIN = "qdq"
# Operators that give the very values they read, in another place.
_KEEPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")


def watched_tensors(
    graph: gs.Graph, products: Mapping[str, Product], sites: Iterable[str]
) -> dict[str, gs.Tensor]:
    """The tensor whose values decide the range of each site.

    Args:
        graph: unmarked.
        products: its layers with weights.
        sites: the sites that are on, weights among them.

    Returns:
        One tensor per activation: what it quantizes, seen through what only moves values, and
        through a MaxPool beside which others read the same tensor: with unlike ranges on its two
        sides it would run float (O12). Of an output, what leaves the clamp behind it.
    """
    nodes = {node.name: node for node in graph.nodes}
    found = {}
    for site in sites:
        node, role = nodes[owner(site)], site.rpartition(".")[2]
        if role == "output":
            found[site] = _clamped(graph, _result_of(node, products.get(node.name)))
        elif not is_weight(site):
            found[site] = _moved(graph, node.inputs[_index(role)])
    return found


def mark(
    graph: gs.Graph,
    products: Mapping[str, Product],
    sites: Iterable[str],
    ranges: Mapping[str, Choice],
    target: Target,
) -> dict[str, SiteGrid]:
    """Put a marker at every site, in place.

    Args:
        graph: unmarked.
        products: its layers with weights.
        sites: the sites that are on.
        ranges: of those that are activations.
        target: whose grids they have.

    Returns:
        The grid of each site; biases of layers that compute in integers are sites too.

    Raises:
        GraphError: a grid has no codes in ONNX, or a weight is not finite.
    """
    marking = _Marking(graph, products, ranges, target, {}, {})
    nodes = {node.name: node for node in graph.nodes}
    roles: dict[str, list[str]] = {}
    for site in sites:
        roles.setdefault(owner(site), []).append(site.rpartition(".")[2])
    for name, own in roles.items():
        marking.mark(nodes[name], own)
    return marking.grids


@dataclass(frozen=True, eq=False)
class _Marking:
    """One graph on its way.

    Attributes:
        graph: it.
        products: its layers.
        ranges: of activations.
        target: whose grids.
        grids: those made so far.
        shared: constant and scales of a weight -> the site that has its codes.
    """

    graph: gs.Graph
    products: Mapping[str, Product]
    ranges: Mapping[str, Choice]
    target: Target
    grids: dict[str, SiteGrid]
    shared: dict[tuple[int, bytes], str]

    def mark(self, node: gs.Node, roles: Iterable[str]) -> None:
        product = self.products.get(node.name)
        for role in roles:
            if role == "output":
                self._mark_result(node, product)
            elif not is_weight(role):
                site = f"{node.name}.{role}"
                self._put(site, node, _index(role))
                self.grids[site] = self._activation(site)
        if "weight" in roles:
            self._mark_weight(node, product)

    def _activation(self, site: str) -> SiteGrid:
        chosen = self.ranges[site]
        return activation_grid(site, chosen.amin, chosen.amax, self.target.activation)

    def _mark_result(self, node: gs.Node, product: Product | None) -> None:
        site = f"{node.name}.output"
        result = _result_of(node, product)
        maker = result.inputs[0]
        raw = gs.Variable(f"{site}.computed", result.dtype, result.shape)
        maker.outputs = [raw if each is result else each for each in maker.outputs]
        self.graph.nodes.append(_marker(site, raw, result))
        self.grids[site] = self._activation(site)

    def _mark_weight(self, node: gs.Node, product: Product | None) -> None:
        """The weight, and the bias where it can be an integer."""
        site, spec = f"{node.name}.weight", self.target.weight
        if product is None:  # the table of an embedding, of which codes are picked first
            self.grids[site] = weight_grid(site, node.inputs[0].values, None, spec)
            self._put(site, node, 0)
            return
        weight, bias = product.weight, product.bias_values
        of_input = self.grids.get(f"{node.name}.input")
        least = None
        if of_input is not None and bias is not None:
            least = least_weight_scale(bias, of_input.scale, weight.shape[product.axis])
        grid = weight_grid(site, weight, product.axis, spec, least)
        key = (id(node.inputs[1]), grid.scale.tobytes())
        known = self.shared.setdefault(key, site)
        self.grids.setdefault(known, grid)
        self._put(known, node, 1)
        if of_input is not None and bias is not None and product.bias is not None:
            of_bias, floating = f"{node.name}.bias", not self.target.integer_bias
            self.grids[of_bias] = bias_grid(
                of_bias, bias, of_input.scale, grid.scale, as_float=floating
            )
            self._put(of_bias, product.total, product.bias)

    def _put(self, site: str, node: gs.Node, index: int) -> None:
        """A marker on one input of a node."""
        source = node.inputs[index]
        marked = gs.Variable(f"{site}.marked/{node.name}", source.dtype, source.shape)
        node.inputs[index] = marked
        self.graph.nodes.append(_marker(site, source, marked))


def _marker(site: str, source: gs.Tensor, result: gs.Tensor) -> gs.Node:
    return gs.Node(
        MARKER, f"{result.name}/{MARKER}", {"site": site}, [source], [result], domain=_DOMAIN
    )


def _result_of(node: gs.Node, product: Product | None) -> gs.Tensor:
    return (node if product is None else product.total).outputs[0]


def _moved(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor was before it was moved, or picked from what others read too."""
    while (mover := made_by(tensor, *_KEEPING, "MaxPool")) is not None:
        source = mover.inputs[0]
        if mover.op == "MaxPool" and (len(source.outputs) < 2 or is_output(graph, source)):
            break
        tensor = source
    return tensor


def _clamped(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    """What the one reader of a tensor makes of it, where that is a ReLU; else itself."""
    reader = only_reader(graph, tensor)
    return reader.outputs[0] if reader is not None and kind_of(reader) in CLAMPS else tensor


def _index(role: str) -> int:
    """Which input of the node a role is: "input" is the first, "input_1" the second."""
    return int(role.removeprefix("input_")) if role != "input" else 0
