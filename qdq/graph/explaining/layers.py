"""The layers of a TensorRT engine, as its inspector writes them in JSON."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qdq.errors import InputError
from qdq.records.engine import LayerRow
from qdq.records.explanation import Fate

_FROM_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# How names are joined: `a + b` and `PWN(a, b)` of fused layers, `a || b` of two that read one
# tensor, `{ForeignNode[a...b]}` of all from a to b.
_JOINTS = re.compile(r" \+ | \|\| |, |PWN\(|\{ForeignNode\[|\.\.\.|\]\}|\)+$|\)(?= \+ | \|\| |, )")
_MOVING = frozenset({"Reformat", "NoOp", "Shuffle", "Constant"})
_FIX = (
    "write them with `trtexec --onnx=model.onnx --profilingVerbosity=detailed "
    "--exportLayerInfo=layers.json`"
)


@dataclass(frozen=True, slots=True)
class Tensors:
    """Types of what a layer reads and gives, in the inspector's words.

    Attributes:
        read: one per input.
        given: one per output.
    """

    read: tuple[str, ...] = field(default=())
    given: tuple[str, ...] = field(default=())


def read_layers(text: str, nodes: Mapping[str, str], at: str) -> tuple[LayerRow, ...]:
    """The layers of an engine that was built with detailed verbosity.

    Source: TensorRT's IEngineInspector, LayerInformationFormat JSON.

    Args:
        text: what the inspector or `trtexec --exportLayerInfo` wrote.
        nodes: what TensorRT calls a node of the file -> its label.
        at: where the text is from.

    Raises:
        InputError: this is no such JSON, or it holds names alone.
    """
    try:
        layers = json.loads(text)["Layers"]
        rows = tuple(_row(each, nodes) for each in layers if isinstance(each, dict))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError("these are no layers of a TensorRT engine", at=at, fix=_FIX) from error
    if len(rows) < len(layers):
        raise InputError(
            "the layers are given by their names alone, without types", at=at, fix=_FIX
        )
    return rows


def _row(layer: Mapping[str, Any], nodes: Mapping[str, str]) -> LayerRow:
    name, kind = str(layer["Name"]), str(layer.get("LayerType", ""))
    tensors = Tensors(*(_types(layer.get(key, ())) for key in ("Inputs", "Outputs")))
    told = _FROM_ONNX.findall(str(layer.get("Metadata", ""))) or _parts(name)
    found = (nodes.get(each) for each in told)
    return LayerRow(name, kind, _fate(kind, tensors), tuple(dict.fromkeys(filter(None, found))))


def _types(tensors: Any) -> tuple[str, ...]:
    return tuple(str(each.get("Format/Datatype", each.get("Datatype", ""))) for each in tensors)


def _parts(name: str) -> list[str]:
    """The names that a name is made of; a layer that only brings data into place tells none."""
    if name.startswith("Reformatting CopyNode"):
        return []
    return [part for part in (each.strip() for each in _JOINTS.split(name)) if part]


def _fate(kind: str, tensors: Tensors) -> Fate:
    codes = [any(map(_is_int8, each)) for each in (tensors.read, tensors.given)]
    if kind in _MOVING:
        return "convert" if codes[0] != codes[1] else "integer" if all(codes) else "float"
    return "integer" if codes[0] else "float"


def _is_int8(said: str) -> bool:
    return "int8" in said.lower()
