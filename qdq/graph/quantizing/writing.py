"""The marked graph as a file for its target: pairs, rewrites, metadata, one write."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from qdq.errors import GraphError
from qdq.graph.files import metadata
from qdq.graph.linting.reading import require_valid
from qdq.graph.lowering import lower
from qdq.graph.opgraphs import products_of
from qdq.graph.passes import PASSES
from qdq.graph.quantizing.marking import MARKER, mark
from qdq.graph.quantizing.planning import Plan, ir_version_of
from qdq.graph.speed import suit_target
from qdq.numerics.thresholds import Choice
from qdq.targets import Target
from qdq.version import version

_MOST_BYTES = (1 << 31) - (1 << 20)  # protobuf writes no more


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        content: the bytes of the file.
        passes: name of each speed pass that ran -> how many places it rewrote.
    """

    content: bytes
    passes: dict[str, int]


def write_marked(
    plan: Plan,
    ranges: Mapping[str, Choice],
    target: Target,
    path: Path,
    *,
    skip_passes: Collection[str] = (),
) -> Written:
    """Put pairs where the plan has them, rewrite for the target, check, and write.

    The file carries target, version and site names in its metadata, and what the float file had
    there.

    Args:
        plan: left as it is.
        ranges: of every activation among its sites.
        target: the runtime.
        path: where to write.
        skip_passes: speed passes of the target that shall not run.

    Raises:
        GraphError: a grid has no codes in ONNX, a weight is not finite, the file would be larger
            than ONNX allows, or the checker objects.
        RegistryError: `skip_passes` names a pass that there is not.
    """
    graph = plan.graph.copy()
    grids = mark(graph, products_of(graph), plan.sites, ranges, target)
    names = lower(graph, grids, marker=MARKER)
    graph.cleanup().toposort()
    for rewrite in PASSES[target.quantize_outputs]:
        rewrite(graph)
    graph.cleanup().toposort()
    passes = suit_target(graph, target, skip=skip_passes)
    built = _finished(graph, plan.model, target, names)
    size = sum(len(each.raw_data) for each in built.graph.initializer)
    if size > _MOST_BYTES:
        raise GraphError(
            f"the quantized file would hold {size:,} bytes, and ONNX keeps less than 2 GiB in one",
            at=str(path),
            fix="split the model",
        )
    try:
        require_valid(built, path)
    except Exception as error:
        raise GraphError(
            f"the graph that was built is not valid: {str(error).strip().splitlines()[0]}",
            at=str(path),
            fix="this is a bug in quantize: please report it with the model",
        ) from error
    content = built.SerializeToString(deterministic=True)
    path.write_bytes(content)
    return Written(content, passes)


def _finished(
    graph: gs.Graph, model: ModelProto, target: Target, names: Mapping[str, str]
) -> ModelProto:
    opsets = list(model.opset_import)
    built: ModelProto = gs.export_onnx(graph, opset_imports=opsets)
    built.ir_version = ir_version_of(model)
    built.producer_name, built.producer_version = "qdq", version()
    built = onnx.shape_inference.infer_shapes(built)
    ours = {"qdq.target": target.label, "qdq.version": version(), "qdq.sites": json.dumps(names)}
    helper.set_model_props(built, metadata(model) | ours)
    return built
