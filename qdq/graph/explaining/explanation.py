"""explain: what a runtime makes of every node of a file, and why."""

import os
from collections import defaultdict
from collections.abc import Mapping

import onnx
import onnxruntime

from qdq.errors import InputError
from qdq.graph.explaining.accounts import Accounts, Findings, account_for
from qdq.graph.explaining.dyes import dyed_copy, inlined
from qdq.graph.explaining.kernels import map_kernels
from qdq.graph.explaining.prediction import predict
from qdq.graph.explaining.sessions import kernel_times, optimized
from qdq.graph.explaining.work import infer_tensors, macs_of
from qdq.graph.linting.judging import judge
from qdq.graph.linting.nodes import DQ, Q
from qdq.graph.linting.reading import opset_of, read_model
from qdq.graph.linting.view import views
from qdq.records.explanation import ExplanationReport, NodeRow
from qdq.records.findings import Finding
from qdq.targets import Target, get
from qdq.targets.target import TargetLike


def explain(
    path: str | os.PathLike[str],
    target: TargetLike = "onnxruntime",
    *,
    runs: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> ExplanationReport:
    """Say of every node of a file in which numbers it runs, in which kernel, and why.

    For onnxruntime the file is handed to its CPU provider and the optimized graph is read: kernels
    are those of this machine, whatever variant the rules are of. For TensorRT, which need not be
    here, the regions it will fuse are predicted from its rules; see also `explain_engine`.

    Args:
        path: an ONNX file, of this package or not, float or with Q and DQ.
        target: "onnxruntime" or "tensorrt".
        runs: of onnxruntime, how many runs to time each kernel in, on one thread; 0 for none.
        sizes: of dimensions with names, {"height": 224}, for timing and for counting MACs; others
            that vary are 1.

    Raises:
        GraphError: the file cannot be read, or onnxruntime refuses it, or cannot run it where runs
            are asked for.
        RegistryError: no such target.
        InputError: runs are asked of TensorRT, or are negative.
    """
    runtime, lengths = get(target), dict(sizes or {})
    measures = runtime.name != "tensorrt"
    if runs < 0 or (runs and not measures):
        raise InputError(
            f"runs={runs}, and {'TensorRT is not run here' if runs > 0 else 'less than none'}",
            fix="pass runs=0, or runs=100 with target='onnxruntime'",
        )
    model = inlined(read_model(path))
    shapes, kinds = infer_tensors(model, lengths)
    nodes = [(view, node) for view in views(model) for node in view.nodes]
    findings = _findings(model, runtime)
    if measures:
        copy = dyed_copy(model)
        mapped = map_kernels(model, optimized(copy, path))
        times = kernel_times(copy, path, runs, lengths) if runs else {}
        found = account_for(nodes, mapped, findings, times)
    else:
        found = predict(nodes, kinds, findings)
    rows = tuple(
        NodeRow(node.label, node.op, each.fate, each.kernel, each.rule, each.why, macs)
        for (_, node), each in zip(nodes, found.nodes, strict=True)
        for macs in [macs_of(node, shapes)]
    )
    source = f"onnxruntime {onnxruntime.__version__}" if measures else "its rules"
    return _report(str(path), runtime.name, source, opset_of(model), rows, found)


def _findings(model: onnx.ModelProto, target: Target) -> Findings:
    """What lint says about each node, by label, the worst first."""
    findings: dict[str, list[Finding]] = defaultdict(list)
    for finding in judge(model, target):
        if finding.severity != "note":
            findings[finding.node].append(finding)
    return findings


def _report(
    path: str, target: str, source: str, opset: int, rows: tuple[NodeRow, ...], found: Accounts
) -> ExplanationReport:
    computing = [row for row in rows if row.op not in (Q, DQ)]
    return ExplanationReport(
        path=path,
        target=target,
        source=source,
        opset=opset,
        integer_nodes=sum(row.fate == "integer" for row in computing),
        float_nodes=sum(row.fate == "float" for row in computing),
        integer_macs=sum(row.macs or 0 for row in rows if row.fate == "integer"),
        macs=sum(row.macs or 0 for row in rows),
        rows=rows,
        kernels=tuple(found.kernels),
    )
