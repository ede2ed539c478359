"""lint: which rules of a runtime a Q/DQ file breaks."""

import os
from pathlib import Path

import numpy as np
from onnx import ModelProto

from qdq.errors import GraphError, RegistryError
from qdq.graph.files import noted_target
from qdq.graph.linting import (  # noqa: F401  (they join the registry)
    onnxruntime_layers,
    onnxruntime_pairs,
    operators,
    tensorrt_blocks,
    tensorrt_numbers,
    tensorrt_pairs,
    tensorrt_placement,
)
from qdq.graph.linting.checks import CHECKS
from qdq.graph.linting.fixes import mend
from qdq.graph.linting.nodes import DQ, Q
from qdq.graph.linting.reading import read_model
from qdq.graph.linting.view import views
from qdq.graph.linting.writing import write_model
from qdq.records.findings import Finding, LintReport
from qdq.registry import choose_one_of
from qdq.targets import TARGETS, Target, get
from qdq.targets.rules import RULES
from qdq.targets.target import TargetLike


def lint(
    path: str | os.PathLike[str],
    target: TargetLike | None = None,
    *,
    fix: str | os.PathLike[str] | None = None,
) -> LintReport:
    """Judge a Q/DQ file, whoever wrote it, by the rules of a runtime.

    Nothing is executed, and no torch is needed. Branches and bodies of If, Loop and Scan are
    judged too; functions of a model are not.

    Args:
        path: an ONNX file.
        target: the runtime, by name or as a Target; None: the one that our export noted in the
            file. `get("tensorrt", skip_small=True)` asks for T18 and T19 as well, "tensorrt:8" for
            T06, "onnxruntime:x86-without-vnni" for O24; "onnxruntime:arm" does without O27.
        fix: where to write a copy in which is mended what can be without changing a single value
            that the file computes; None: nowhere. The report is of that copy then.

    Raises:
        GraphError: the file cannot be read, or names no target where none is given.
        RegistryError: no such target, or none that there are rules for.
        InputError: the copy cannot be written.
    """
    model = read_model(path)
    runtime = get(target) if target is not None else _noted(model, Path(path))
    _require_rules(runtime)
    rows = judge(model, runtime)
    if fix is None:
        return LintReport(str(path), runtime.name, _boundaries(model), rows)
    mend(model, runtime)
    write_model(model, Path(fix), Path(path))
    left = judge(model, runtime)
    still = set(left)
    mended = tuple(row for row in rows if row not in still)
    return LintReport(str(path), runtime.name, _boundaries(model), left, mended, str(fix))


def judge(model: ModelProto, target: Target) -> tuple[Finding, ...]:
    """Every finding in a model, in the order of severity, then of rule and node."""
    graphs = views(model)
    with np.errstate(all="ignore"):  # scales may be any numbers
        found = {
            finding
            for rules, check in CHECKS.values()
            if RULES[rules[0]].target in ("", target.name)
            for graph in graphs
            for finding in check(graph, target)
            if finding.rule not in target.waived
        }
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda each: (order.index(each.severity), each)))


def _boundaries(model: ModelProto) -> int:
    return sum(len(list(view.of(Q, DQ))) for view in views(model))


def _require_rules(target: Target) -> None:
    known = sorted({rule.target for rule in RULES.values()} - {""})
    if target.name not in known:
        raise RegistryError(
            f"there are no rules for target {target.name!r}",
            fix=choose_one_of(target.name, known),
        )


def _noted(model: ModelProto, path: Path) -> Target:
    """The target that our export wrote into the file."""
    target = noted_target(model)
    if target is None:
        raise GraphError(
            "the file does not say which runtime it is made for",
            at=str(path),
            fix=f"name the target: {', '.join(sorted(TARGETS))}",
        )
    return target
