"""Opening the Q/DQ file that is to be rewritten: what can be used, and in which form."""

import os
from collections import Counter
from pathlib import Path

import onnx_graphsurgeon as gs
from onnx import ModelProto, inliner, version_converter

from qdq.errors import GraphError
from qdq.graph.edges import DEQUANTIZE, QUANTIZE, is_output, read_instead, remove
from qdq.graph.files import load
from qdq.graph.linting.reading import MOST_BYTES, opset_of, subgraphs

OLDEST_OPSET = 13  # the first with per-channel Q/DQ (T05)
_DEFAULT = ("", "ai.onnx")
_CONTRIBUTED = "com.microsoft"  # has the same Q and DQ, for more types


def read_quantized(path: str | os.PathLike[str]) -> ModelProto:
    """A checked Q/DQ model with all its data, of opset 13 or newer.

    Q and DQ are in the default domain, and domains that no node uses are not declared.

    Raises:
        GraphError: the file cannot be read whole, holds 2 GB or more, no Q/DQ, holds integer
            operators in their place, or is of an opset that onnx cannot raise to 13.
    """
    model, file = load(path), Path(path)
    size = sum(len(each.raw_data) for each in model.graph.initializer)
    if size >= MOST_BYTES:
        raise GraphError(
            f"the model holds {size:,} bytes, and less than {MOST_BYTES:,} are rewritten",
            at=str(file),
            fix="split the model",
        )
    if model.functions:
        model = inliner.inline_local_functions(model)
    _refuse_other_forms(model, file)
    held = {each.name for each in model.graph.initializer}
    for each in [each for each in model.graph.input if each.name in held]:
        model.graph.input.remove(each)
    for node in model.graph.node:
        if node.domain == _CONTRIBUTED and node.op_type in (QUANTIZE, DEQUANTIZE):
            node.domain = ""
    _forget_idle_domains(model)
    return _raised(model, file) if opset_of(model) < OLDEST_OPSET else model


def as_graph(model: ModelProto) -> gs.Graph:
    """The model's graph, with constants in the place of its Constant nodes and of Identity of them.

    Torch writes Identity for each initializer that equals another one.
    """
    graph = gs.import_onnx(model)
    for node in [each for each in graph.nodes if each.op == "Constant"]:
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant) and not any(node.outputs[0] is o for o in graph.outputs):
            result = node.outputs[0]
            remove(graph, node)
            read_instead(result, gs.Constant(result.name, value.values))
    for node in [each for each in graph.nodes if each.op == "Identity" and not each.domain]:
        held, result = node.inputs[0], node.outputs[0]
        if isinstance(held, gs.Constant) and not is_output(graph, result):
            remove(graph, node)
            read_instead(result, gs.Constant(result.name, held.values))
    return graph


def _refuse_other_forms(model: ModelProto, file: Path) -> None:
    counts = Counter(node.op_type for node in model.graph.node)
    integer = sorted(
        op for op in counts if op.startswith("QLinear") or op in ("ConvInteger", "MatMulInteger")
    )
    if integer:
        raise GraphError(
            f"the graph holds {', '.join(integer)}, which is the operator form, not Q/DQ (T07)",
            at=str(file),
            fix="quantize the float model again in the Q/DQ form: qdq quantize, or "
            "quantize_static(quant_format=QuantFormat.QDQ)",
        )
    if not counts[DEQUANTIZE]:
        inner = any(True for _ in subgraphs(model.graph))
        where = " outside of branches and bodies" if inner else ""
        raise GraphError(
            f"there is no DequantizeLinear in the graph{where}: this is a float model",
            at=str(file),
            fix="quantize it first: qdq quantize",
        )


def _forget_idle_domains(model: ModelProto) -> None:
    used, work = {""}, [model.graph]
    while work:
        graph = work.pop()
        used |= {node.domain for node in graph.node}
        work += [inner for _, inner in subgraphs(graph)]
    used |= {function.domain for function in model.functions}
    kept = [each for each in model.opset_import if each.domain in used or each.domain in _DEFAULT]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _raised(model: ModelProto, file: Path) -> ModelProto:
    opset = opset_of(model)
    try:
        raised: ModelProto = version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:
        raise GraphError(
            f"onnx cannot raise opset {opset} to {OLDEST_OPSET}, the first with scales per "
            f"channel: {str(error).strip().splitlines()[0]}",
            at=str(file),
            fix=f"export the model again with opset {OLDEST_OPSET} or newer",
        ) from error
    return raised
