"""The marked graph as the second file: pairs, rewrites for the target, metadata, the check."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from qdq.errors import GraphError
from qdq.graph.files import metadata
from qdq.graph.linting.reading import MOST_BYTES, require_valid
from qdq.graph.lowering import SiteGrid, lower
from qdq.graph.passes import PASSES
from qdq.graph.quantizing.marking import MARKER
from qdq.graph.retargeting.grids import Range
from qdq.graph.retargeting.notes import RANGES, ranges_note
from qdq.graph.speed import suit_target
from qdq.targets import Target
from qdq.version import version


@dataclass(frozen=True)
class Rewritten:
    """The second file.

    Attributes:
        content: its bytes.
        passes: name of each speed pass that ran -> how many places it rewrote.
    """

    content: bytes
    passes: dict[str, int]


def lowered(
    graph: gs.Graph,
    grids: Mapping[str, SiteGrid],
    target: Target,
    *,
    skip_passes: Collection[str] = (),
) -> tuple[dict[str, str], dict[str, int]]:
    """Make pairs of the markers and rewrite for the target, in place.

    Returns:
        (site -> tensor; name of each speed pass that ran -> how many places it rewrote)

    Raises:
        RegistryError: `skip_passes` names a pass that there is not.
    """
    names = lower(graph, grids, marker=MARKER)
    graph.cleanup().toposort()
    for rewrite in PASSES[target.quantize_outputs]:
        rewrite(graph)
    graph.cleanup().toposort()
    return names, suit_target(graph, target, skip=skip_passes)


def rewritten(
    graph: gs.Graph,
    grids: Mapping[str, SiteGrid],
    source: ModelProto,
    target: Target,
    ranges: Mapping[str, Range],
    *,
    at: Path,
    skip_passes: Collection[str] = (),
) -> Rewritten:
    """The second file, checked.

    It carries target, version, site names and ranges in its metadata, and what the first has there.

    Args:
        graph: with markers; it is used up.
        grids: of every site marked.
        source: the first file's model.
        target: the runtime.
        ranges: site -> range.
        at: where it will be written.
        skip_passes: speed passes of the target that shall not run.

    Raises:
        GraphError: the file would be larger than ONNX allows, or the checker objects.
        RegistryError: `skip_passes` names a pass that there is not.
    """
    names, passes = lowered(graph, grids, target, skip_passes=skip_passes)
    model: ModelProto = gs.export_onnx(graph, opset_imports=list(source.opset_import))
    model.graph.name, model.graph.doc_string = source.graph.name, source.graph.doc_string
    model.producer_name, model.producer_version = "qdq", version()
    model.doc_string, model.ir_version = source.doc_string, ir_version_of(source)
    ours = {
        "qdq.target": target.label,
        "qdq.version": version(),
        "qdq.sites": json.dumps(names),
        RANGES: ranges_note(ranges),
    }
    helper.set_model_props(model, metadata(source) | ours)
    _require_valid(model, at)
    return Rewritten(model.SerializeToString(deterministic=True), passes)


def ir_version_of(model: ModelProto) -> int:
    """The model's own, or the first that has its opsets and initializers that are no inputs."""
    least: int = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    return max(least, model.ir_version)


def _require_valid(model: ModelProto, at: Path) -> None:
    size = model.ByteSize()
    if size >= MOST_BYTES:
        raise GraphError(
            f"the rewritten file would have {size:,} bytes, and ONNX keeps less than "
            f"{MOST_BYTES:,} in one",
            at=str(at),
            fix="split the model",
        )
    types = [each.type.tensor_type for each in (*model.graph.input, *model.graph.output)]
    try:
        require_valid(model, at)
        if all(each.HasField("shape") for each in types):  # or shapes cannot be checked
            onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's, or that of shape inference
        raise GraphError(
            f"the rewritten graph is not valid: {str(error).strip().splitlines()[0]}",
            at=str(at),
            fix="this is a bug of retarget: please report it with the model",
        ) from error
