"""Operators that belong together in a graph, whether pairs stand between them or not."""

from collections.abc import Iterator

from onnx import NodeProto

from tests.checking.qdq_graph import DQ, Graph, Q

Ops = frozenset[str]
VARIANCE = tuple(map(frozenset, (["Sqrt"], ["Add"], ["ReduceMean"], ["Pow", "Mul"])))
GELU_TAIL = tuple(map(frozenset, (["Add"], ["Mul"], ["Mul"])))


def silu_regions(graph: Graph) -> Iterator[tuple[NodeProto, NodeProto, str]]:
    """(Sigmoid, Mul, x) of every x * sigmoid(x)."""
    for product in graph.of("Mul"):
        for gate, other in (product.input, list(reversed(product.input))):
            sigmoid = graph.maker(graph.bare(gate))
            if sigmoid is not None and sigmoid.op_type == "Sigmoid":
                x = graph.bare(sigmoid.input[0])
                if x == graph.bare(other):
                    yield sigmoid, product, x


def layer_norms(graph: Graph) -> Iterator[tuple[str, list[NodeProto]]]:
    """(x, nodes) of every layer norm, written as one operator or as a chain."""
    for node in graph.of("LayerNormalization"):
        yield node.input[0], [node]
    for division in graph.of("Div"):
        centered = graph.maker(graph.bare(division.input[0]))
        spread = _makers_in_a_row(graph, division.input[1], VARIANCE)
        if not spread or centered is None or centered.op_type != "Sub":
            continue
        mean = graph.maker(graph.bare(centered.input[1]))
        if mean is not None and mean.op_type == "ReduceMean":
            yield centered.input[0], [centered, mean, division, *spread]


def gelus(graph: Graph) -> Iterator[list[NodeProto]]:
    """The nodes of every GELU: one operator, or x / 2 * (1 + erf(x / sqrt(2)))."""
    for node in graph.of("Gelu"):
        yield [node]
    for erf in graph.of("Erf"):
        shrink = graph.maker(graph.bare(erf.input[0]))
        tail = _readers_in_a_row(graph, erf, GELU_TAIL)
        yield [erf, *tail] if shrink is None else [shrink, erf, *tail]


def masked_attentions(graph: Graph) -> Iterator[tuple[NodeProto | None, NodeProto]]:
    """(product of queries and keys, addition) where a mask that varies goes into a Softmax."""
    for softmax in graph.of("Softmax"):
        masking = graph.maker(graph.bare(softmax.input[0]))
        if masking is not None and masking.op_type == "Add" and len(graph.moving(masking)) == 2:
            products = [_product(graph, name) for name in masking.input]
            yield next(filter(None, products), None), masking


def outputs_in_blocks(graph: Graph) -> set[str]:
    """What the nodes of layer norms, GELUs and mask additions make: blocks that stay float."""
    blocks = [nodes for _, nodes in layer_norms(graph)] + list(gelus(graph))
    blocks.append([masking for _, masking in masked_attentions(graph)])
    return {name for nodes in blocks for node in nodes for name in node.output}


def residual_sides(graph: Graph, addition: NodeProto) -> tuple[str, str] | None:
    """(skip, layer side) of an addition that a layer may fuse with; None where there is none.

    The layer side is the one that ends in a layer nobody else reads; of two, the longer way back
    to where both come from (T11), and of two equally long ones, the one without a pair.
    """
    sides = graph.moving(addition)
    if len(sides) != 2 or graph.bare(sides[0]) == graph.bare(sides[1]):
        return None
    lengths = _ways_back(graph, *sides)
    ranks = [
        (_ends_in_a_layer(graph, name), length, graph.dq(name) is None)
        for name, length in zip(sides, lengths, strict=True)
    ]
    if not (ranks[0][0] or ranks[1][0]):
        return None
    return (sides[1], sides[0]) if ranks[0] >= ranks[1] else (sides[0], sides[1])


def _product(graph: Graph, tensor: str) -> NodeProto | None:
    """The MatMul a tensor leaves, scaled by a constant or not."""
    node = graph.maker(graph.bare(tensor))
    while node is not None and node.op_type in ("Mul", "Div") and len(graph.moving(node)) == 1:
        node = graph.maker(graph.bare(graph.moving(node)[0]))
    return node if node is not None and node.op_type == "MatMul" else None


def _ends_in_a_layer(graph: Graph, tensor: str) -> bool:
    bare = graph.bare(tensor)
    return graph.layer(bare) is not None and len(graph.uses(bare)) == 1


def _ways_back(graph: Graph, one: str, other: str) -> tuple[int, int]:
    """How many nodes lie between each of two tensors and the nearest one both come from."""
    ways = [_ancestors(graph, each) for each in (one, other)]
    common = ways[0].keys() & ways[1].keys()
    if not common:
        return 0, 0
    nearest = min(common, key=lambda each: (ways[0][each] + ways[1][each], each))
    return ways[0][nearest], ways[1][nearest]


def _ancestors(graph: Graph, tensor: str) -> dict[str, int]:
    """All tensors that lead to this one, and how many nodes away they are; pairs do not count."""
    start = graph.bare(tensor)
    found, front, steps = {start: 0}, [start], 0
    while front:
        steps += 1
        makers = [node for node in map(graph.maker, front) if node is not None]
        ahead = {graph.bare(name) for node in makers for name in graph.moving(node)}
        front = sorted(ahead - found.keys())
        found |= dict.fromkeys(front, steps)
    return found


def _makers_in_a_row(graph: Graph, tensor: str, rows: tuple[Ops, ...]) -> list[NodeProto]:
    """The maker of a tensor, that one's and so on, past pairs; [] if they are not these."""
    nodes: list[NodeProto] = []
    for ops in rows:
        node = graph.maker(graph.bare(tensor))
        if node is None or node.op_type not in ops:
            return []
        nodes.append(node)
        tensor = node.input[0]
    return nodes


def _readers_in_a_row(graph: Graph, node: NodeProto, rows: tuple[Ops, ...]) -> list[NodeProto]:
    """A reader of a node, one of that and so on, past pairs, as far as they are these."""
    nodes: list[NodeProto] = []
    for ops in rows:
        uses = graph.uses(node.output[0], {Q, DQ})
        ahead = [use.node for use in uses if use.node is not None and use.op in ops]
        if not ahead:
            break
        node = ahead[0]
        nodes.append(node)
    return nodes
