"""An ONNX graph as the neutral op graph that placement reads, as a recorded torch forward is."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.edges import infer_shapes, values_of
from qdq.graph.quantizing.products import Product, product_of
from qdq.targets.opgraph import CLAMPS, Op, OpGraph

# Operator -> kind. Any other is of a kind with its own name in small letters.
_KINDS = {
    "AveragePool": "avg_pool",
    "BatchNormalization": "batch_norm",
    "Cast": "to",
    "Dropout": "identity",
    "Flatten": "reshape",
    "GatherElements": "gather",
    "GlobalAveragePool": "avg_pool",
    "LayerNormalization": "layer_norm",
    "LeakyRelu": "leaky_relu",
    "MaxPool": "max_pool",
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "Squeeze": "reshape",
    "Unsqueeze": "reshape",
}
# What is asked for sizes makes no tensor of a forward.
_SIZES = frozenset({"Shape", "Size"})
# Operators whose inputs behind the first say how, not what.
_ONE_INPUT = frozenset({
    "Clip", "Dropout", "Expand", "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample",
})  # fmt: skip
# Kinds that are none where whole numbers are computed: sizes, indices.
_ARITHMETIC = frozenset({"add", "mul", "concat", "matmul"})


def op_graph(graph: gs.Graph) -> OpGraph:
    """The ops of a float graph, named after its nodes.

    A layer is one op with the Add of its bias. Constants have numbers and nobody makes them. What
    branches and bodies read is read by the node that holds them.

    Args:
        graph: in topological order, each node with a name of its own; types and shapes are noted
            where they are known.
    """
    numbers: dict[int, int] = {}

    def number(tensor: gs.Tensor) -> int:
        return numbers.setdefault(id(tensor), len(numbers) + 1)

    given = tuple(number(each) for each in graph.inputs)
    found = (product_of(graph, node) for node in graph.nodes)
    products = {id(each.node): each for each in found if each is not None}
    added = {id(each.total) for each in products.values() if each.total is not each.node}
    ops = []
    for node in graph.nodes:
        if id(node) in added or node.op in _SIZES:
            continue
        product = products.get(id(node))
        read = node.inputs[:1] if product is not None else _read_by(node)
        made = node.outputs if product is None else product.total.outputs
        ops.append(
            Op(
                node.name,
                kind_of(node) if product is None else product.kind,
                tuple(number(each) for each in read),
                tuple(number(each) for each in made if not each.is_empty()),
                None if made[0].shape is None else len(made[0].shape),
                product.shape if product is not None else (),
                node.attrs.get("group", 1) if product is not None else 1,
            )
        )
    outputs = tuple(number(each) for each in graph.outputs)
    lengths = {numbers[key]: each for key, each in _shapes(graph).items() if key in numbers}
    return OpGraph(tuple(ops), outputs, given, lengths)


def products_of(graph: gs.Graph) -> dict[str, Product]:
    """The layers with weights, by the names of their nodes."""
    found = (product_of(graph, node) for node in graph.nodes)
    return {each.node.name: each for each in found if each is not None}


def kind_of(node: gs.Node) -> str:
    """What a node without constant weights is in the neutral graph."""
    if node.domain:
        return f"{node.domain}.{node.op}"
    if node.op == "Clip":
        return _clamp(node)
    if node.op in ("Resize", "Upsample"):
        nearest = node.attrs.get("mode", "nearest") in ("nearest", b"nearest")
        return "resize_nearest" if nearest else "resize"
    if node.op == "Gather":
        return _gather(node)
    if node.op in ("Conv", "ConvTranspose", "Gemm"):  # by a weight that is computed, or scaled
        return f"other_{node.op.lower()}"
    kind: str = _KINDS.get(node.op, node.op.lower())
    if kind in _ARITHMETIC and _is_integer(node.outputs[0]):
        return f"integer_{kind}"
    if kind == "matmul" and any(isinstance(each, gs.Constant) for each in node.inputs):
        return "other_matmul"
    return kind


def _clamp(node: gs.Node) -> str:
    ends: list[float] = []
    for index, free in ((1, -np.inf), (2, np.inf)):
        left_out = len(node.inputs) <= index or node.inputs[index].is_empty()
        value = np.array(free) if left_out else values_of(node, index)
        if value is None or value.size != 1:
            return "clamp"
        ends.append(value.item())
    return next((kind for kind, clamp in CLAMPS.items() if clamp == tuple(ends)), "clamp")


def _gather(node: gs.Node) -> str:
    """An embedding picks rows of a constant table; a slice takes an entry that is known."""
    table = values_of(node, 0)
    if isinstance(node.inputs[1], gs.Constant):
        return "slice"
    rows = table is not None and table.ndim == 2 and table.dtype == np.float32
    return "embedding" if rows and node.attrs.get("axis", 0) == 0 else "gather"


def _shapes(graph: gs.Graph) -> dict[int, tuple[int, ...]]:
    """By id of the tensor; of an output as they follow from the inputs, not as it is noted."""
    noted = [(each, each.shape, each.dtype) for each in graph.outputs]
    domains = graph.import_domains
    infer_shapes(gs.Graph(graph.nodes, graph.inputs, opset=graph.opset, import_domains=domains))
    tensors = [*graph.inputs, *(each for node in graph.nodes for each in node.outputs)]
    found = {id(each): _shape(each) for each in tensors}
    for tensor, shape, dtype in noted:
        tensor.shape, tensor.dtype = shape, dtype
    return {key: shape for key, shape in found.items() if shape is not None}


def _shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """Lengths, of one row where the number of rows may vary; None where another is not known."""
    if not tensor.shape:
        return None if tensor.shape is None else ()
    rows, *rest = tensor.shape
    lengths = (rows if isinstance(rows, int) else 1, *rest)
    return lengths if all(isinstance(each, int) for each in lengths) else None


def _is_integer(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and not np.issubdtype(tensor.dtype, np.floating)


def _read_by(node: gs.Node) -> Sequence[gs.Tensor]:
    """The tensors that a node computes with, those that its branches and bodies read too."""
    if not node.domain and node.op in _ONE_INPUT:
        return list(node.inputs[:1])
    own = [each for each in node.inputs if not each.is_empty()]
    if node.op == "Gather" and isinstance(node.inputs[1], gs.Constant):
        own = own[:1]
    return [*own, *(each for graph in node.subgraphs() for each in _read_outside(graph))]


def _read_outside(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """What a branch or body reads of the graph around it; what it makes itself does no harm."""
    for node in graph.nodes:
        yield from (each for each in node.inputs if not each.is_empty())
        for inner in node.subgraphs():
            yield from _read_outside(inner)
