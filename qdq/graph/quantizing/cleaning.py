"""A float graph as quantizing wants it: every node named, constants as such, layers in one form."""

from collections.abc import Callable, Iterable, Iterator

import onnx_graphsurgeon as gs
from onnx import ModelProto

from qdq.errors import GraphError, first_line
from qdq.graph.edges import infer_shapes
from qdq.graph.quantizing.constants import drop_copies, fold_moved, keep_constants
from qdq.graph.quantizing.layers import (
    add_in_pairs,
    flat_biases,
    gemms_of_products,
    plain_gemms,
    pools_of_means,
)
from qdq.graph.quantizing.norms import fold_norms, fold_scales
from qdq.graph.speed.constants import fold_constants

# What runs, in this order, and what the report says of it; "" for what nobody asks about.
_STEPS: tuple[tuple[Callable[[gs.Graph], int], str], ...] = (
    (keep_constants, ""),
    (fold_constants, ""),
    (fold_moved, ""),
    (drop_copies, ""),
    (plain_gemms, ""),
    (add_in_pairs, "Sums that became Adds"),
    (flat_biases, ""),
    (gemms_of_products, "MatMuls with a bias that became Gemms"),
    (fold_norms, "BatchNormalizations folded"),
    (fold_scales, "constant factors and terms folded into the layers before them"),
    (pools_of_means, "means over an image that became GlobalAveragePools"),
)

# Of the names of tensors that lowering makes.
_ENDINGS = ("codes", "scale", "zero_point", "float", "computed")


def cleaned(model: ModelProto, path: str) -> tuple[gs.Graph, tuple[str, ...]]:
    """The graph of a float model, clean and in topological order, and notes on what changed.

    It computes what the model did, to float rounding.

    Args:
        model: whole, of opset 13 or newer.
        path: where it comes from, for messages.

    Raises:
        GraphError: the graph cannot be taken apart.
    """
    notes = []
    try:
        graph = gs.import_onnx(model)
        name_nodes(graph)
        graph.cleanup().toposort()
        for step, note in _STEPS:
            done = step(graph)
            graph.cleanup().toposort()
            infer_shapes(graph)
            if done and note:
                notes.append(f"{note}: {done}")
    except Exception as error:  # types that graphsurgeon does not know, graphs without an order
        raise GraphError(
            f"the graph cannot be taken apart: {type(error).__name__}: {first_line(error)}",
            at=path,
            fix="simplify it, or export it again",
        ) from error
    return graph, tuple(notes)


def name_nodes(graph: gs.Graph) -> None:
    """Give every node a name of its own, its operator and what it makes where it has none.

    What a file holds of a site is called after its node: no tensor is called like that yet.
    """
    taken = set(_claimed(graph.tensors()))
    for node in graph.nodes:
        made = node.outputs[0].name if node.outputs else ""
        stem = name = (node.name or f"{node.op}_{made}").lstrip(".")
        count = 1
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        node.name = name
        taken.add(name)


def _claimed(names: Iterable[str]) -> Iterator[str]:
    """`conv` of a tensor that is called `conv.input.scale`."""
    for name in names:
        parts = name.split(".")
        if parts[-1] in _ENDINGS:
            yield from (".".join(parts[:end]) for end in range(1, len(parts)))
