"""A copy of a model whose names say which node each thing came from.

onnxruntime derives the names of what it fuses, moves and inserts from the names it was given. So a
copy in which node 12 is called `#12#` and its first output `#12.0#` comes out of its optimizer with
the history of every node readable.
"""

import re
from collections.abc import Iterator

import onnx
from onnx import inliner

from qdq.graph.linting.reading import subgraphs

# What onnxruntime puts behind the name of a node that still does the work of the one it names.
_OWN = re.compile(r"#(\d+)(?:\.\d+)?#(?:_nchwc|_pre_q|/\w*Fusion/?|/duplicated)*(?:_token_\d+)?")
_ANY = re.compile(r"#(\d+)(?:\.\d+)?#")


def graphs_of(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graph and all branches and bodies in it, in the order of `views`."""
    found = [graph]
    for each in found:  # grows meanwhile
        found += [inner for _, inner in subgraphs(each)]
    return found


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of those graphs, in order."""
    return (node for each in graphs_of(graph) for node in each.node)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its own functions in the place of their calls."""
    return inliner.inline_local_functions(model) if model.functions else model


def dyed_copy(model: onnx.ModelProto) -> bytes:
    """The model, serialized, its nodes and what they make renamed.

    Numbers follow `nodes_of`. Names of inputs and initializers stay, and data outside the file
    stays outside: paths in the copy are relative to the folder of the file.
    """
    copy, names = onnx.ModelProto(), dict[str, str]()
    copy.CopyFrom(model)
    for index, node in enumerate(nodes_of(copy.graph)):
        node.name = f"#{index}#"
        for place, output in enumerate(node.output):
            if output:
                names[output] = f"#{index}.{place}#"
    for graph in graphs_of(copy.graph):
        for node in graph.node:
            node.input[:] = [names.get(each, each) for each in node.input]
            node.output[:] = [names.get(each, each) for each in node.output]
        for info in (*graph.output, *graph.value_info):
            info.name = names.get(info.name, info.name)
    content: bytes = copy.SerializeToString()
    return content


def source_of(name: str) -> int | None:
    """The node that something with this name still stands for; None where it is something new."""
    found = _OWN.fullmatch(name)
    return None if found is None else int(found[1])


def sources_in(name: str) -> list[int]:
    """All nodes that a name was made from."""
    return [int(each) for each in _ANY.findall(name)]
