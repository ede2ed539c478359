"""Running the speed passes, all or some, and saying what each did."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from qdq.errors import GraphError, RegistryError
from qdq.graph.edges import infer_shapes
from qdq.graph.files import load, metadata, save
from qdq.graph.speed.clamps import clamp_codes
from qdq.graph.speed.constants import fold_constants
from qdq.graph.speed.conv_pads import fold_pads
from qdq.graph.speed.gemms import multiply_flat
from qdq.graph.speed.movers import dequantize_behind_movers
from qdq.graph.speed.norm_sums import sum_before_norm
from qdq.graph.speed.projections import merge_projections
from qdq.graph.speed.shortcut_picks import pick_by_convolution
from qdq.graph.speed.signed_clamps import round_before_clamps
from qdq.graph.speed.signed_pairs import split_quantizers
from qdq.graph.speed.stem_depth import block_stem
from qdq.graph.speed.stem_padding import pad_stem
from qdq.graph.speed.unsigned import shift_codes
from qdq.graph.speed.weight_forms import write_weights_as_floats
from qdq.graph.speed.widths import pad_channels
from qdq.registry import choose_one_of
from qdq.targets import Target, get
from qdq.targets.target import TargetLike

OLDEST_OPSET = 13  # the first with per-channel Q/DQ (T05)


@dataclass(frozen=True, slots=True)
class SpeedPass:
    """One rewrite.

    Attributes:
        name: how users and reports call it.
        run: rewrites a graph in place and counts the places.
        differs: how results may differ from those before; empty where integers stay the same.
        optional: whether it runs only where it is asked for.
    """

    name: str
    run: Callable[[gs.Graph], int]
    differs: str = ""
    optional: bool = False


_ALL = (
    SpeedPass("fold_constants", fold_constants),
    SpeedPass("fold_pads", fold_pads),
    SpeedPass("shift_codes", shift_codes),
    SpeedPass("clamp_codes", clamp_codes),
    SpeedPass("round_before_clamps", round_before_clamps),
    SpeedPass("pick_by_convolution", pick_by_convolution),
    SpeedPass(
        "merge_projections",
        merge_projections,
        "weights of a merged shortcut are rounded again, its sum once instead of three times",
        optional=True,
    ),
    SpeedPass("pad_channels", pad_channels),
    SpeedPass("block_stem", block_stem),
    SpeedPass("pad_stem", pad_stem),
    SpeedPass("multiply_flat", multiply_flat, "float rounding where a bias is added, some 1e-7"),
    SpeedPass("sum_before_norm", sum_before_norm),
    SpeedPass("split_quantizers", split_quantizers),
)
# In the order in which they run: each leaves the graph as those behind it want it.
PASSES: dict[str, SpeedPass] = {each.name: each for each in _ALL}


def speed_up(
    graph: gs.Graph, *, skip: Collection[str] = (), also: Collection[str] = ()
) -> dict[str, int]:
    """Run the passes on a Q/DQ graph, in place.

    Args:
        graph: lowered to Q and DQ; left clean and in topological order.
        skip: names of passes not to run.
        also: names of optional passes to run, which change results.

    Returns:
        Name of each pass that was run -> how many places it rewrote.

    Raises:
        RegistryError: `skip` or `also` names a pass that there is not.
    """
    for name in (*skip, *also):
        if name not in PASSES:
            raise RegistryError(
                f"there is no speed pass {name!r}", fix=choose_one_of(name, list(PASSES))
            )
    done = {}
    for name, each in PASSES.items():
        if name not in skip and (name in also or not each.optional):
            done[name] = each.run(graph)
            graph.cleanup().toposort()
    infer_shapes(graph)
    return done


def suit_target(graph: gs.Graph, target: Target, *, skip: Collection[str] = ()) -> dict[str, int]:
    """The last rewrites of a file that is made for a target: for speed, and the forms it reads.

    Args:
        graph: lowered to Q and DQ, in place; left clean and in topological order.
        target: who shall read it.
        skip: names of passes not to run.

    Returns:
        As of `speed_up`; nothing where the target has no speed passes.

    Raises:
        RegistryError: `skip` names a pass that there is not.
    """
    done = speed_up(graph, skip=(*skip, *target.skip_passes)) if target.speed_passes else {}
    if target.float_weights:
        write_weights_as_floats(graph)
    if target.quantize_outputs:
        dequantize_behind_movers(graph)
    return done


def speed_up_file(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    target: TargetLike = "onnxruntime",
    skip: Collection[str] = (),
    also: Collection[str] = (),
) -> dict[str, int]:
    """Run the passes on a Q/DQ file and write another.

    Args:
        source: in the default ONNX domain, opset 13 or newer.
        destination: where to write; whole or not at all. It may be `source`.
        target: who shall read it, by name or as a Target. Its `skip_passes` do not run: for
            "tensorrt" and "tensorrt:portable" codes stay int8, and readers of them get pairs of
            their own; for "onnxruntime" they become uint8, which is faster there.
        skip: names of passes not to run.
        also: names of optional passes to run, which change results.

    Returns:
        Name of each pass that was run -> how many places it rewrote.

    Raises:
        GraphError: `source` is no valid ONNX model, or of an older opset or another domain.
        RegistryError: `skip` or `also` names a pass that there is not, or there is no such target.
        InputError: `destination` cannot be written.
    """
    runtime = get(target)
    model = load(source)
    opset = max((each.version for each in model.opset_import if not each.domain), default=0)
    if opset < OLDEST_OPSET:
        raise GraphError(
            f"opset {opset} has no per-channel Q/DQ",
            at=str(source),
            fix=f"convert it to opset {OLDEST_OPSET} with onnx.version_converter",
        )
    graph = gs.import_onnx(model)
    done = speed_up(graph, skip=(*skip, *runtime.skip_passes), also=also)
    result: onnx.ModelProto = gs.export_onnx(graph, opset_imports=model.opset_import)
    result.ir_version = model.ir_version
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.graph.name = model.graph.name
    notes = metadata(model)
    if "qdq.target" in notes:
        notes["qdq.target"] = runtime.label
    onnx.helper.set_model_props(result, notes)
    save(result, destination, opset=opset)
    return done
