"""A stranger's float ONNX file, read with its data, refused or put on an opset that has Q/DQ."""

import os
from pathlib import Path

import onnx
from onnx import ModelProto, inliner, version_converter

from qdq.errors import GraphError, first_line
from qdq.graph.files import load
from qdq.graph.linting.reading import opset_of, require_valid, subgraphs
from qdq.graph.quantizing.halves import widen

OLDEST_OPSET = 13  # the first with per-channel Q/DQ (T05)
_FREE_CONSTANTS = 4  # the first IR version in which an initializer need not be an input
_OTHER_AXIS = ("Softmax", "LogSoftmax", "Hardmax")  # they flattened what is behind it
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QGemm")


def open_float(path: str | os.PathLike[str]) -> tuple[ModelProto, tuple[str, ...]]:
    """The model of a float file, whole, of opset 13 or newer, and notes on what became of it.

    Functions of the model are written out, external data is read, inputs that an initializer gives
    a value are no inputs any more, and half precision is float32 but in inputs and outputs.

    Raises:
        GraphError: there is no such file, it is no valid ONNX model, its data is not beside it, it
            is quantized already, or its opset cannot be converted.
    """
    file = Path(path)
    model = load(file)
    _refuse_quantized(model, file)
    try:
        model = inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # onnx's own
        raise GraphError(
            f"the functions of the model cannot be written out: {first_line(error)}",
            at=str(file),
            fix="inline them with onnx.inliner, or export it again without",
        ) from error
    notes = []
    held = {each.name for each in model.graph.initializer}
    overridable = [each for each in model.graph.input if each.name in held]
    for each in overridable:
        model.graph.input.remove(each)
    if overridable and model.ir_version >= _FREE_CONSTANTS:
        notes.append(f"{len(overridable)} inputs have a value in the file, and are constants now")
    model.ir_version = max(model.ir_version, _FREE_CONSTANTS)
    if opset_of(model) < OLDEST_OPSET:
        notes.append(f"converted from opset {opset_of(model)} to {OLDEST_OPSET}")
        model = _converted(model, file)
    halves = widen(model)
    if halves:
        notes.append(f"float16 constants, casts, inputs and outputs, now float32 within: {halves}")
    return model, tuple(notes)


def _refuse_quantized(model: ModelProto, file: Path) -> None:
    work = [model.graph]
    for graph in work:  # grows meanwhile
        work += [inner for _, inner in subgraphs(graph)]
    ops = {node.op_type for graph in work for node in graph.node}
    ops |= {node.op_type for function in model.functions for node in function.node}
    found = sorted(
        op for op in ops if op in _QUANTIZED or op.startswith("QLinear") or op.endswith("Integer")
    )
    if found:
        raise GraphError(
            f"the file is quantized already: it holds {', '.join(found)}",
            at=str(file),
            fix="start from the float file; qdq.graph.retarget makes a Q/DQ file fit another "
            "runtime",
        )


def _converted(model: ModelProto, file: Path) -> ModelProto:
    old = opset_of(model)
    try:
        left = _left_behind(model, old)
        if left:
            raise ValueError(f"it leaves {', '.join(left)} in a branch or body as they were")
        converted = version_converter.convert_version(model, OLDEST_OPSET)
        require_valid(converted, file)
    except Exception as error:  # whatever the converter meets
        raise GraphError(
            f"onnx cannot convert opset {old} to {OLDEST_OPSET}, the first with Q/DQ per channel: "
            f"{first_line(error)}",
            at=str(file),
            fix=f"export it again with opset {OLDEST_OPSET} or newer",
        ) from error
    return converted


def _left_behind(model: ModelProto, old: int) -> list[str]:
    """Operators in branches and bodies that mean something else in the newer opset.

    The converter does not go there.
    """
    work = [inner for _, inner in subgraphs(model.graph)]
    for graph in work:  # grows meanwhile
        work += [inner for _, inner in subgraphs(graph)]
    ops = {node.op_type for graph in work for node in graph.node if not node.domain}
    return sorted(op for op in ops if _changed(op, old))


def _changed(op: str, old: int) -> bool:
    before, after = (onnx.defs.get_schema(op, opset) for opset in (old, OLDEST_OPSET))
    grown = len(before.inputs) != len(after.inputs) or before.attributes.keys() != (
        after.attributes.keys()
    )
    return grown or (op in _OTHER_AXIS and before.since_version != after.since_version)
