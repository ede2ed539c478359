"""explain_engine: what TensorRT made of a file, beside what its rules let expect."""

import os
from collections.abc import Mapping
from pathlib import Path

from qdq.errors import InputError
from qdq.graph.explaining.builds import built_layers
from qdq.graph.explaining.dyes import inlined, nodes_of
from qdq.graph.explaining.explanation import explain
from qdq.graph.explaining.layers import read_layers
from qdq.graph.linting.nodes import DQ, Q, node_of
from qdq.graph.linting.reading import read_model
from qdq.records.engine import BuiltRow, EngineReport, LayerRow
from qdq.records.explanation import ExplanationReport
from qdq.targets import get
from qdq.targets.target import TargetLike

MOST_BYTES = 2**26  # of a file of layers; those of the largest nets take some 10 MB


def explain_engine(
    path: str | os.PathLike[str],
    layers: str | os.PathLike[str] | None = None,
    *,
    target: TargetLike = "tensorrt",
    sizes: Mapping[str, int] | None = None,
) -> EngineReport:
    """Compare the prediction of `explain(path, "tensorrt")` with an engine, node by node.

    A layer's name or metadata tells which nodes are in it, the types of its inputs in which
    numbers they compute.

    Args:
        path: an ONNX file.
        layers: JSON of an engine built from it anywhere, which
            `trtexec --profilingVerbosity=detailed --exportLayerInfo=FILE` writes; None: build the
            engine here, with the tensorrt package on an NVIDIA GPU.
        target: "tensorrt" or a variant of it, which the prediction is for.
        sizes: of dimensions with names, {"height": 224}; others that vary are 1.

    Raises:
        GraphError: the file cannot be read, or TensorRT refuses it.
        InputError: TensorRT is not installed here, `layers` cannot be read or is no such JSON, or
            the target is another runtime.
        RegistryError: no such target.
    """
    runtime = get(target)
    if runtime.name != "tensorrt":
        raise InputError(
            f"an engine is TensorRT's, and the target is {runtime.name!r}",
            fix="name the target: tensorrt",
        )
    predicted = explain(path, runtime, sizes=sizes)
    if layers is None:
        version, text = built_layers(Path(path), sizes or {})
        source, at = f"TensorRT {version}", "TensorRT's engine inspector"
    else:
        source, at = str(layers), str(layers)
        text = _read(Path(layers))
    found = read_layers(text, _names(path), at)
    return EngineReport(source, predicted, found, _compared(predicted, found))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"the file has {path.stat().st_size:,} bytes, and layers of an engine need less "
                f"than {MOST_BYTES:,}",
                at=str(path),
                fix="pass what trtexec --exportLayerInfo wrote",
            )
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the layers of the engine cannot be read", at=str(path), fix="check the path"
        ) from error


def _names(path: str | os.PathLike[str]) -> dict[str, str]:
    """What TensorRT calls a node -> its label; one without a name by its first output."""
    nodes = [node_of(each) for each in nodes_of(inlined(read_model(path)).graph)]
    return {node.proto.name or f"node_of_{node.result}": node.label for node in nodes}


def _compared(predicted: ExplanationReport, layers: tuple[LayerRow, ...]) -> tuple[BuiltRow, ...]:
    """A row per node that computes; of several layers that name one, that on codes counts."""
    doing: dict[str, LayerRow] = {}
    for layer in layers:
        for name in layer.nodes:
            known = doing.get(name)
            if known is None or (layer.fate == "integer" and known.fate != "integer"):
                doing[name] = layer
    return tuple(
        BuiltRow(
            row.name,
            row.op,
            row.fate,
            doing[row.name].fate if row.name in doing else None,
            doing[row.name].name if row.name in doing else "",
        )
        for row in predicted.rows
        if row.op not in (Q, DQ) and row.fate in ("integer", "float")
    )
