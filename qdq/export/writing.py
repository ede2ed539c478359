"""export_onnx: a calibrated model as a Q/DQ ONNX file for one target."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from torch import Tensor, nn

from qdq.errors import ExportError
from qdq.export.tracing import to_onnx
from qdq.graph.files import save
from qdq.graph.lowering import SiteGrid, lower
from qdq.graph.passes import PASSES
from qdq.graph.speed import speed_up
from qdq.insertion.fusing import require_eval
from qdq.insertion.placing import found_insertion, insertion_of, retarget
from qdq.insertion.switches import quantizers
from qdq.nn.symbolic import MARKER, MarkedCall, emit_markers
from qdq.numerics.affine import QParams, quantize, quantize_bias
from qdq.records.export import ExportReport, SiteRow
from qdq.sites import is_weight
from qdq.targets import Target, get
from qdq.targets.target import TargetLike
from qdq.version import version


def export_onnx(
    model: nn.Module,
    example_inputs: object,
    path: str | os.PathLike[str],
    *,
    target: TargetLike | None = None,
    opset: int = 13,
    dynamic_batch: bool = True,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    skip_passes: Collection[str] = (),
) -> ExportReport:
    """Write the model with int8 weights and Q/DQ where the target wants them.

    The file holds the default ONNX domain in exactly this opset, passes the full checker, and
    carries target, version and site names in its metadata. Equal models give equal bytes.

    Args:
        model: after `insert` and `calibrate`, in eval mode; one with quantizers by hand, never
            inserted, is written as it is.
        example_inputs: a tensor, tuple or dict.
        path: where to write; whole or not at all.
        target: a name or a Target; None: the one the model is placed for, tensorrt by hand.
        opset: 13..17.
        dynamic_batch: the first axis may vary, of every input and output that has the batch there:
            whose first axis is as long as the first input's.
        input_names: one per input tensor; None: the keywords, or input, input_1, ...
        output_names: one per output tensor; None: output, output_1, ...
        skip_passes: speed passes of the target that shall not run, by the names that
            `report.passes` has.

    Raises:
        StepError: training mode, or a model without quantizers.
        CalibrationError: an active site has no range.
        ExportError: torch cannot export the model, a site got lost on the way, or a grid has no
            ONNX operator.
        RegistryError: `skip_passes` names a pass that there is not.
        InputError: the inputs or the path cannot be used.
    """
    require_eval(model, "export_onnx")
    state = found_insertion(model)
    if state is not None and target is not None:
        retarget(model, target)
    placed = insertion_of(model).target if state is not None else get(target or "tensorrt")
    try:
        return _export(
            model,
            example_inputs,
            Path(path),
            opset,
            placed,
            skip_passes,
            dynamic_batch=dynamic_batch,
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
    opset: int,
    target: Target,
    skip_passes: Collection[str],
    **naming: Any,
) -> ExportReport:
    active = {site: quantizer for site, quantizer in quantizers(model).items() if quantizer.on}
    for site, quantizer in active.items():
        if not (is_weight(site) or quantizer.dynamic):
            _site_grid(site, quantizer.grid())  # what cannot be written is said before the work
    with emit_markers() as calls:
        traced = to_onnx(model, example_inputs, opset=opset, **naming)
    graph = gs.import_onnx(traced)
    _refuse_lost_sites(graph, [call.site for call in calls], active)
    grids = {call.site: _written(call, target) for call in calls}
    names = lower(graph, grids, marker=MARKER)
    for rewrite in PASSES[target.quantize_outputs]:
        rewrite(graph)
    graph.cleanup().toposort()
    passes = speed_up(graph, skip=skip_passes) if target.speed_passes else {}
    save(_finish(graph, traced, target, names), path, opset=opset)
    content = path.read_bytes()
    rows = tuple(_row(grids[site], tensor) for site, tensor in names.items())
    digest = hashlib.sha256(content).hexdigest()
    return ExportReport(str(path), target.name, opset, len(content), digest, rows, passes)


def _written(call: MarkedCall, target: Target) -> SiteGrid:
    """Scale, zero point and codes, by the functions the simulation uses."""
    if call.grid is not None:
        codes = quantize(call.x, call.grid) if is_weight(call.site) else None
        return _site_grid(call.site, call.grid, codes)
    return SiteGrid(
        call.site,
        _array(call.scale),
        np.zeros(call.scale.shape, np.int32),
        0 if call.scale.dim() else None,
        _array(quantize_bias(call.x, call.scale)),
        as_float=not target.integer_bias,
    )


def _site_grid(site: str, grid: QParams, codes: Tensor | None = None) -> SiteGrid:
    spec = grid.spec
    if spec.bits != 8:
        raise ExportError(
            f"{spec} has no QuantizeLinear before opset 21",
            at=site,
            fix="simulate other widths as you like, and export with bits=8",
        )
    code_type = np.int8 if spec.signed else np.uint8
    return SiteGrid(
        site,
        _array(grid.scale),
        _array(grid.zero_point).astype(code_type),
        spec.keep_axis,
        None if codes is None else _array(codes).astype(code_type),
    )


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()


def _refuse_lost_sites(graph: gs.Graph, calls: list[str], active: Collection[str]) -> None:
    """Every quantizer that is on ran, and every run left its marker in the graph."""
    idle = sorted(set(active).difference(calls))
    if idle:
        raise ExportError(
            f"{len(idle)} active sites were not reached by the example inputs",
            at=", ".join(idle[:8]),
            fix="pass inputs that take the way through these layers, or leave them out with "
            "qdq.disable_quantization",
        )
    marked = Counter(node.attrs["site"] for node in graph.nodes if node.op == MARKER)
    lost = Counter(calls) - marked
    if lost:
        raise ExportError(
            f"the exporter dropped {lost.total()} quantizers",
            at=", ".join(sorted(lost)[:8]),
            fix="their result is not used by any output: leave these layers out with ignore=",
        )


def _finish(
    graph: gs.Graph, traced: onnx.ModelProto, target: Target, names: dict[str, str]
) -> onnx.ModelProto:
    opsets = [entry for entry in traced.opset_import if not entry.domain]
    model: onnx.ModelProto = gs.export_onnx(graph, opset_imports=opsets)
    model.graph.name = "qdq"
    model.producer_name, model.producer_version = "qdq", version()
    for node in model.graph.node:
        node.ClearField("doc_string")  # torch writes file names of this machine there
    model = onnx.shape_inference.infer_shapes(model)  # what torch lost behind `x += y`
    kept = {"qdq.target": target.name, "qdq.version": version(), "qdq.sites": json.dumps(names)}
    onnx.helper.set_model_props(model, kept)
    return model


def _row(grid: SiteGrid, tensor: str) -> SiteRow:
    return SiteRow(
        grid.site,
        tensor,
        str(grid.zero_point.dtype),
        float(grid.scale.min()),
        float(grid.scale.max()),
        int(grid.zero_point.flat[0]),
        grid.scale.size,
    )
