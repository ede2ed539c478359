"""A plan put into a float graph: a marker at every site, and the grid it is lowered to."""

import onnx_graphsurgeon as gs

from qdq.graph.edges import Array
from qdq.graph.lowering import SiteGrid
from qdq.graph.quantizing.marking import MARKER
from qdq.graph.retargeting.biases import integer_bias
from qdq.graph.retargeting.placing import Plan, Rounding
from qdq.graph.retargeting.stripping import Stripped
from qdq.graph.retargeting.weights import Written
from qdq.targets import Target


def mark(stripped: Stripped, plan: Plan, target: Target) -> dict[str, SiteGrid]:
    """Put a marker at every site of a plan, in place.

    Args:
        stripped: the graph that the plan is of.
        plan: what to round, and the codes of the weights.
        target: whether biases are integers.

    Returns:
        The grid of each site.
    """
    marking = _Marking(stripped.graph)
    for each in plan.roundings:
        grid = SiteGrid(each.site, *each.grid.arrays())
        if each.role == "output":
            marking.behind(grid, each.tensor)
        else:
            marking.before(grid, each.place.node, each.place.roles[each.role])
    inputs = {each.place.node.name: each for each in plan.roundings if each.role == "input"}
    shared: dict[int, str] = {}
    for weighed in plan.weighed:
        name, index = weighed.node.name, weighed.weight
        assert index is not None  # it has codes
        constant = weighed.node.inputs[index]
        site = shared.setdefault(id(constant), weighed.site("weight"))
        of_weight = plan.weights[name]
        marking.before(_weight_grid(site, of_weight), weighed.node, index)
        if target.integer_bias and name in inputs:
            marking.add_bias(stripped, inputs[name], of_weight.scale)
    return marking.grids


class _Marking:
    """One graph on its way.

    Args:
        graph: is changed in place.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self.grids: dict[str, SiteGrid] = {}

    def before(self, grid: SiteGrid, node: gs.Node, index: int) -> None:
        """A marker on one input of a node."""
        source = node.inputs[index]
        marked = gs.Variable(f"{grid.site}.marked/{node.name}.{index}", source.dtype, source.shape)
        node.inputs[index] = marked
        self._add(grid, source, marked)

    def behind(self, grid: SiteGrid, result: gs.Variable) -> None:
        """A marker between a result and all who read it."""
        maker = result.inputs[0]
        raw = gs.Variable(f"{grid.site}.computed", result.dtype, result.shape)
        maker.outputs = [raw if each is result else each for each in maker.outputs]
        self._add(grid, raw, result)

    def add_bias(self, stripped: Stripped, of_input: Rounding, of_weight: Array) -> None:
        """A marker on the constant bias of a layer, if it has one."""
        product = of_input.place.product
        values = None if product is None else product.bias_values
        if product is None or product.bias is None or values is None:
            return
        held = stripped.constants.get(product.total.inputs[product.bias].name)
        site = of_input.place.site("bias")
        grid = integer_bias(site, values, held, of_input.grid, of_weight)
        self.before(grid, product.total, product.bias)

    def _add(self, grid: SiteGrid, source: gs.Tensor, result: gs.Variable) -> None:
        self.grids.setdefault(grid.site, grid)
        name, attrs = f"{result.name}/{MARKER}", {"site": grid.site}
        self._graph.nodes.append(gs.Node(MARKER, name, attrs, [source], [result]))


def _weight_grid(site: str, weight: Written) -> SiteGrid:
    held = weight.codes
    return SiteGrid(site, held.scale, held.zero_point, held.axis, held.codes)
