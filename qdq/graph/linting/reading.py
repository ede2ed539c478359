"""Opening a stranger's file: checked, and without the data that lies outside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from qdq.errors import GraphError, first_line

MOST_NODES = 100_000  # of any net that is known; lint takes seconds for so many
MOST_BYTES = 2**31  # protobuf reads no more
EXTERNAL = TensorProto.EXTERNAL


def read_model(path: str | os.PathLike[str]) -> ModelProto:
    """The model of a file, checked; external data stays where it is.

    Raises:
        GraphError: there is no such file, it is too large, or it is no valid ONNX model; external
            data that lies outside the folder of the file makes it invalid.
    """
    file = Path(path)
    if not file.is_file():
        raise GraphError("there is no such ONNX file", at=str(file), fix="check the path")
    size = file.stat().st_size
    if size >= MOST_BYTES:
        raise GraphError(
            f"the file has {size:,} bytes, and ONNX keeps less than {MOST_BYTES:,} in one file",
            at=str(file),
            fix="save it with external data",
        )
    try:
        model = onnx.load_model_from_string(file.read_bytes())
        require_valid(model, file)
    except GraphError:
        raise
    except Exception as error:  # protobuf's, the checker's, the system's
        raise GraphError(
            f"this is no valid ONNX model: {first_line(error)}",
            at=str(file),
            fix="export it again, or run onnx.checker on it for the details",
        ) from error
    _refuse_strange(model, file)
    return model


def require_valid(model: ModelProto, file: Path) -> None:
    """Let the ONNX checker judge a model that lies in `file`.

    Raises:
        GraphError: its external data is not in the folder of the file.
        onnx.checker.ValidationError: the checker objects.
    """
    outside = [each for each in model.graph.initializer if each.data_location == EXTERNAL]
    for each in outside:
        _require_beside(each, file)
    if outside:  # whose data is not read: for the checker they are inputs
        model = _copy_without(model, {each.name for each in outside})
    with _as_the_checker_wants(model):
        onnx.checker.check_model(model)


def subgraphs(graph: GraphProto) -> Iterator[tuple[int, GraphProto]]:
    """(number of the node, graph) of each branch or body in the nodes of a graph."""
    for number, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield number, attribute.g
            for inner in attribute.graphs:
                yield number, inner


def opset_of(model: ModelProto) -> int:
    """The version of the default domain; 0 where the model has none."""
    return max(
        (each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0
    )


def _refuse_strange(model: ModelProto, file: Path) -> None:
    """GraphError for more nodes than any net has, and for names that are no text."""
    work, count, names = [model.graph], 0, []
    while work:
        graph = work.pop()
        count += len(graph.node)
        work += [inner for _, inner in subgraphs(graph)]
        lists = (graph.initializer, graph.input, graph.output, graph.value_info)
        names += [each.name for entries in lists for each in entries]
        for node in graph.node:
            names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if count > MOST_NODES:
        raise GraphError(
            f"the graph has {count:,} nodes; more than {MOST_NODES:,} are not read",
            at=str(file),
            fix="fold its constants or split it",
        )
    for name in names:
        if not isinstance(name, str):  # protobuf hands out what is no UTF-8 as bytes
            raise GraphError(
                f"a name in the graph is no UTF-8 text: {name!r}",
                at=str(file),
                fix="export it again with names in UTF-8",
            )


def _require_beside(tensor: TensorProto, file: Path) -> None:
    entries = {each.key: each.value for each in tensor.external_data}
    location, folder = entries.get("location", ""), file.absolute().parent.resolve()
    place = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not place.is_relative_to(folder):
        raise GraphError(
            f"the data of {tensor.name!r} lies outside the folder of the file: {location!r}",
            at=str(file),
            fix="save the model anew: its data belongs beside it",
        )
    if not place.is_file():
        raise GraphError(
            f"the data of {tensor.name!r} is missing: {location!r}",
            at=str(file),
            fix=f"put the file into {folder}",
        )


def _copy_without(model: ModelProto, names: set[str]) -> ModelProto:
    """A copy in which these initializers are inputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, listed = copy.graph, {each.name for each in model.graph.input}
    for each in (each for each in model.graph.initializer if each.name in names - listed):
        graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    kept = [each for each in graph.initializer if each.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return copy


@contextmanager
def _as_the_checker_wants(model: ModelProto) -> Iterator[None]:
    """Put right for a moment what the checker objects to and runtimes do not.

    Inputs and outputs of no noted rank; and axes of Q and DQ before opset 13, which are a finding
    (T05) and no reason to give up.
    """
    taken = []
    if opset_of(model) < 13:
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                taken += [(node, each) for each in node.attribute if each.name == "axis"]
    types = [each.type.tensor_type for each in (*model.graph.input, *model.graph.output)]
    bare = [each for each in types if each.elem_type and not each.HasField("shape")]
    for node, axis in taken:
        node.attribute.remove(axis)
    for each in bare:
        each.shape.SetInParent()
    try:
        yield
    finally:
        for node, axis in taken:
            node.attribute.append(axis)
        for each in bare:
            each.ClearField("shape")
