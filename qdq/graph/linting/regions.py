"""Nodes that belong together, whether pairs stand between them or not."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from qdq.graph.linting.nodes import DQ, Node, Q
from qdq.graph.linting.view import View

_FAR = 2_000  # tensors looked at on the way back from an addition
_SCALES = frozenset({"Mul", "Div"})


@dataclass(frozen=True)
class Floats:
    """A block that TensorRT computes in float as a whole (T20).

    Attributes:
        what: "a layer norm", "a GELU" or "masked attention".
        nodes: those that compute it.
        entry: the tensor it begins with.
    """

    what: str
    nodes: tuple[Node, ...]
    entry: str = ""


@dataclass(frozen=True)
class Regions:
    """Every block of a graph, looked for once.

    Attributes:
        silus: (Sigmoid, Mul, x) of every x * sigmoid(x).
        floats: the blocks that stay float.
    """

    silus: tuple[tuple[Node, Node, str], ...]
    floats: tuple[Floats, ...]
    made: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, view: View) -> "Regions":
        """Those of a graph."""
        floats = (*_norms(view), *_gelus(view), *_masks(view))
        made = {name for block in floats for node in block.nodes for name in node.outputs}
        return cls(tuple(_silus(view)), floats, frozenset(made))


def residual_sides(view: View, addition: Node) -> tuple[str, str] | None:
    """(skip, layer side) of an addition that a layer may be fused with; None where there is none.

    The layer side ends in a layer that nobody else reads; of two it is the longer way back to
    where both come from, and of two equally long ones that without a pair (T11).
    """
    sides = view.moving(addition)
    if len(sides) != 2 or view.bare(sides[0]) == view.bare(sides[1]):
        return None
    alone = [_ends_in_a_layer(view, each) for each in sides]
    if not any(alone):
        return None
    if all(alone):
        ways = _ways(view, *sides)
        if ways[0] != ways[1]:
            first = ways[0] > ways[1]
        else:
            first = view.dq(sides[0]) is None or view.dq(sides[1]) is not None
    else:
        first = alone[0]
    return (sides[1], sides[0]) if first else (sides[0], sides[1])


def _silus(view: View) -> Iterator[tuple[Node, Node, str]]:
    for product in view.of("Mul"):
        for gate, other in (product.inputs[:2], product.inputs[1::-1]):
            sigmoid = view.maker(view.bare(gate))
            if sigmoid is None or sigmoid.op != "Sigmoid":
                continue
            x = view.bare(sigmoid.input(0))
            if x == view.bare(other):
                yield sigmoid, product, x


def _norms(view: View) -> Iterator[Floats]:
    """LayerNormalization, or (x - mean) / sqrt(variance + epsilon) in single operators."""
    for node in view.of("LayerNormalization"):
        yield Floats("a layer norm", (node,), node.input(0))
    for division in view.of("Div"):
        centered = view.maker(view.bare(division.input(0)))
        root = view.maker(view.bare(division.input(1)))
        if centered is None or centered.op != "Sub" or root is None or root.op != "Sqrt":
            continue
        mean = view.maker(view.bare(centered.input(1)))
        shifted = view.maker(view.bare(root.input(0)))
        if mean is None or mean.op != "ReduceMean" or shifted is None or shifted.op != "Add":
            continue
        variance = view.maker(view.bare(shifted.input(0)))
        square = None if variance is None else view.maker(view.bare(variance.input(0)))
        if variance is None or square is None or variance.op != "ReduceMean":
            continue
        if square.op in ("Pow", "Mul"):
            nodes = (centered, mean, division, root, shifted, variance, square)
            yield Floats("a layer norm", nodes, centered.input(0))


def _gelus(view: View) -> Iterator[Floats]:
    """Gelu, or x / 2 * (1 + erf(x / sqrt(2))) in single operators."""
    for node in view.of("Gelu"):
        yield Floats("a GELU", (node,), node.input(0))
    for erf in view.of("Erf"):
        nodes = [erf]
        before = view.maker(view.bare(erf.input(0)))
        if before is not None and before.op in _SCALES:
            nodes.append(before)
        last = erf
        for op in ("Add", "Mul", "Mul"):
            behind = [use.node for use in view.uses(last.result, {Q, DQ}) if use.op == op]
            if not behind or behind[0] is None:
                break
            last = behind[0]
            nodes.append(last)
        yield Floats("a GELU", tuple(nodes), before.input(0) if before else erf.input(0))


def _masks(view: View) -> Iterator[Floats]:
    """The addition of a mask in front of Softmax, and the product of queries and keys."""
    for softmax in view.of("Softmax"):
        masking = view.maker(view.bare(softmax.input(0)))
        if masking is None or masking.op != "Add" or len(view.moving(masking)) < 2:
            continue
        products = [_product(view, name) for name in masking.inputs]
        yield Floats("masked attention", (masking, *(each for each in products if each)))


def _product(view: View, tensor: str) -> Node | None:
    """The MatMul that a tensor leaves, scaled by constants or not."""
    node = view.maker(view.bare(tensor))
    for _ in range(8):  # an exporter writes one or two
        if node is None or node.op not in _SCALES or len(view.moving(node)) != 1:
            break
        node = view.maker(view.bare(view.moving(node)[0]))
    return node if node is not None and node.op == "MatMul" else None


def _ends_in_a_layer(view: View, tensor: str) -> bool:
    bare = view.bare(tensor)
    return view.layer(bare) is not None and len(view.readers(bare)) == 1


def _ways(view: View, one: str, other: str) -> tuple[int, int]:
    """How many nodes lie between each of two tensors and the nearest one both come from."""
    first, second = _distances(view, one), _distances(view, other)
    common = first.keys() & second.keys()
    if not common:
        return 0, 0
    nearest = min(common, key=lambda each: (first[each] + second[each], each))
    return first[nearest], second[nearest]


def _distances(view: View, tensor: str) -> dict[str, int]:
    """The tensors that lead to this one, and how many nodes away they are, pairs left out."""
    front = [view.bare(tensor)]
    found = dict.fromkeys(front, 0)
    steps = 0
    while front and len(found) < _FAR:
        steps += 1
        behind: list[str] = []
        for name in front:
            maker = view.maker(name)
            for each in view.moving(maker) if maker is not None else ():
                bare = view.bare(each)
                if bare not in found:
                    found[bare] = steps
                    behind.append(bare)
        front = behind
    return found
