"""export_onnx: a calibrated model as a Q/DQ ONNX file for one target."""

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from qdq.data import tensors_of, to_device
from qdq.errors import ExportError
from qdq.export.form import FileForm
from qdq.export.grids import (
    grid_of_call,
    known_ranges,
    refuse_lost_sites,
    row_of,
    site_grid,
)
from qdq.export.tracing import to_onnx
from qdq.graph.code_inputs import NOTE, CodeInput, take_codes
from qdq.graph.external_data import put_back, take_out, too_large
from qdq.graph.files import require_place, save
from qdq.graph.lowering import lower
from qdq.graph.passes import PASSES
from qdq.graph.precision import narrow
from qdq.graph.retargeting.notes import RANGES, ranges_note
from qdq.graph.speed import suit_target
from qdq.insertion.fusing import require_eval
from qdq.insertion.placing import found_insertion, insertion_of, retarget
from qdq.insertion.switches import quantizers
from qdq.nn.symbolic import MARKER, emit_markers
from qdq.records.export import ExportReport
from qdq.sites import is_weight, owner
from qdq.targets import Target, get
from qdq.targets.costs.nets import predict_ratio
from qdq.targets.target import TargetLike
from qdq.version import version


def export_onnx(
    model: nn.Module,
    example_inputs: object,
    path: str | os.PathLike[str],
    *,
    target: TargetLike | None = None,
    opset: int = 13,
    exporter: str = "auto",
    precision: str = "float32",
    input: str = "float",
    external_data: bool | None = None,
    dynamic_batch: bool = True,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    skip_passes: Collection[str] = (),
) -> ExportReport:
    """Write the model with int8 weights and Q/DQ where the target wants them.

    The file holds the default ONNX domain in exactly this opset, passes the full checker, and
    carries target, version and site names in its metadata. Equal models give equal bytes, wherever
    they live and whatever their type: the file is made on the CPU and in float32.

    Args:
        model: after `insert` and `calibrate`, in eval mode; one with quantizers by hand, never
            inserted, is written as it is.
        example_inputs: a tensor, tuple or dict.
        path: where to write; whole or not at all.
        target: a name or a Target; None: the one the model is placed for, tensorrt by hand.
        opset: 13 to the newest that onnx and onnxruntime know here.
        exporter: "torchscript", "dynamo" (torch.export), or "auto": the first below opset 18, the
            second from there up.
        precision: "float32", "float16" or "bfloat16": type of what is not quantized, inputs and
            outputs included. Scales stay float32, so that codes stay what they are.
        input: "float"; "uint8": float inputs become their codes and pass no Q; "uint8_nhwc": those
            with the channels last. The metadata `qdq.input` has scale and zero point of each.
        external_data: weights go into one file beside `path`; None: where protobuf's 2 GB are not
            enough.
        dynamic_batch: the first axis may vary, of every input and output that has the batch there:
            whose first axis is as long as the first input's.
        dynamic_shapes: by the names of inputs and outputs, further axes that may vary and what
            their sizes are called, `{"input": {2: "height", 3: "width"}}`.
        input_names: one per input tensor; None: the keywords, or input, input_1, ...
        output_names: one per output tensor; None: output, output_1, ...
        skip_passes: speed passes of the target that shall not run, by the names that
            `report.passes` has.

    Raises:
        StepError: training mode, or a model without quantizers.
        CalibrationError: an active site has no range.
        ExportError: an option that is not known, torch cannot export the model, a site got lost on
            the way, or a grid has no ONNX operator.
        GraphError: an input cannot be codes, or a node cannot be in half precision.
        RegistryError: `skip_passes` names a pass that there is not.
        InputError: the inputs or the path cannot be used.
    """
    form = FileForm(
        opset=opset,
        exporter=exporter,
        precision=precision,
        input=input,
        external_data=external_data,
        skip_passes=skip_passes,
    )
    require_place(path)
    require_eval(model, "export_onnx")
    model, example_inputs = _on_cpu_in_float32(model, example_inputs)
    state = found_insertion(model)
    if state is not None and target is not None:
        retarget(model, target)
    placed = insertion_of(model).target if state is not None else get(target or "tensorrt")
    try:
        return _export(
            model,
            example_inputs,
            Path(path),
            placed,
            form,
            dynamic_batch=dynamic_batch,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
        )
    finally:
        if state is not None:
            retarget(model, state.target)


def _export(
    model: nn.Module,
    example_inputs: object,
    path: Path,
    target: Target,
    form: FileForm,
    **naming: Any,
) -> ExportReport:
    active = {site: quantizer for site, quantizer in quantizers(model).items() if quantizer.on}
    for site, quantizer in active.items():
        if not (is_weight(site) or quantizer.dynamic):
            site_grid(site, quantizer.grid())  # what cannot be written is said before the work
    # Under autocast the trace would hold its casts, some of which no operator of ONNX takes.
    with torch.autocast("cpu", enabled=False), emit_markers() as calls:
        traced = to_onnx(model, example_inputs, opset=form.opset, exporter=form.exporter, **naming)
    graph = gs.import_onnx(traced)
    refuse_lost_sites(graph, [call.site for call in calls], active)
    grids = {call.site: grid_of_call(call, target) for call in calls}
    names = lower(graph, grids, marker=MARKER)
    for rewrite in PASSES[target.quantize_outputs]:
        rewrite(graph)
    graph.cleanup().toposort()
    passes = suit_target(graph, target, skip=form.skip_passes)
    codes = {}
    if form.input != "float":
        codes = take_codes(graph, channels_last=form.input == "uint8_nhwc")
    told = _told(target, names, codes) | {RANGES: ranges_note(known_ranges(model))}
    beside = _write(graph, path, form, told)
    state = found_insertion(model)
    return ExportReport(
        path=str(path),
        target=target.name,
        opset=form.opset,
        bytes=sum(each.stat().st_size for each in (path, beside) if each is not None),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=tuple(row_of(grids[site], tensor) for site, tensor in names.items()),
        passes=passes,
        data="" if beside is None else str(beside),
        predicted=predict_ratio(
            None if state is None else state.graph, target.costs, {owner(site) for site in active}
        ),
    )


def _on_cpu_in_float32(model: nn.Module, inputs: object) -> tuple[nn.Module, object]:
    """Both as they are, or copies on the CPU in float32.

    A buffer or an input may be float64 on purpose, in a model whose parameters are float32. Torch
    traces no tensors that were made in inference mode.
    """
    held = [*model.parameters(), *model.buffers(), *tensors_of(inputs)]
    other = any(each.dtype in (torch.float16, torch.bfloat16) for each in held)
    other |= any(each.dtype == torch.float64 for each in model.parameters())
    if other or any(each.device.type != "cpu" or each.is_inference() for each in held):
        model = copy.deepcopy(model).cpu()
        inputs = to_device(inputs, "cpu")
        if other:
            model, inputs = model.float(), _in_float32(inputs)
    return model, inputs


def _in_float32(inputs: Any) -> Any:
    """The same nest of tensors, those of floats in float32."""
    if isinstance(inputs, Tensor):
        return inputs.float() if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {key: _in_float32(value) for key, value in inputs.items()}
    return tuple(map(_in_float32, inputs)) if isinstance(inputs, (tuple, list)) else inputs


def _told(target: Target, names: dict[str, str], codes: dict[str, CodeInput]) -> dict[str, str]:
    """The metadata of a file."""
    told = {"qdq.target": target.label, "qdq.version": version(), "qdq.sites": json.dumps(names)}
    if codes:
        inputs = {name: dataclasses.asdict(each) for name, each in codes.items()}
        told[NOTE] = json.dumps(inputs)
    return told


def _write(graph: gs.Graph, path: Path, form: FileForm, told: dict[str, str]) -> Path | None:
    """Write the graph in this form; the file beside it that holds the weights, if there is one."""
    data = take_out(graph)
    opsets = [onnx.helper.make_opsetid("", form.opset)]
    model: onnx.ModelProto = gs.export_onnx(graph, opset_imports=opsets)
    model.graph.name = "qdq"
    model.producer_name, model.producer_version = "qdq", version()
    for node in model.graph.node:
        node.ClearField("doc_string")  # torch writes file names of this machine there
    onnx.helper.set_model_props(model, told)
    model = onnx.shape_inference.infer_shapes(model)  # what torch lost behind `x += y`
    if form.precision != "float32":
        narrow(model, form.precision, data)
        model = onnx.shape_inference.infer_shapes(model)
    outside = too_large(data) if form.external_data is None else form.external_data
    if not outside:
        if too_large(data):
            raise ExportError(
                "the weights are more than the 2 GB that protobuf holds in one file",
                at=str(path),
                fix="leave out external_data=False",
            )
        put_back(model, data)
    return save(model, path, opset=form.opset, data=data if outside else None)
