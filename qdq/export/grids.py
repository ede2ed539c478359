"""What the file holds of each quantizer, by the functions that the simulation uses."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from torch import Tensor, nn

from qdq.errors import ExportError
from qdq.graph.lowering import SiteGrid
from qdq.insertion.switches import quantizers
from qdq.nn.symbolic import MARKER, MarkedCall
from qdq.numerics.affine import QParams, quantize, quantize_bias
from qdq.records.export import SiteRow
from qdq.sites import is_weight
from qdq.targets import Target


def grid_of_call(call: MarkedCall, target: Target) -> SiteGrid:
    """Scale, zero point and codes of one call of a quantizer.

    Raises:
        ExportError: the grid has no ONNX operator.
    """
    if call.grid is not None:
        codes = quantize(call.x, call.grid) if is_weight(call.site) else None
        return site_grid(call.site, call.grid, codes)
    return SiteGrid(
        call.site,
        _array(call.scale),
        np.zeros(call.scale.shape, np.int32),
        0 if call.scale.dim() else None,
        _array(quantize_bias(call.x, call.scale)),
        as_float=not target.integer_bias,
    )


def site_grid(site: str, grid: QParams, codes: Tensor | None = None) -> SiteGrid:
    """A grid as arrays.

    Args:
        site: its name.
        grid: of 8 bits; of a weight, whose codes lie in the file, of fewer too (O24).
        codes: of a weight, int32 in its shape; None for an activation.

    Raises:
        ExportError: more bits, or an activation of fewer, which no Q of int8 would clip.
    """
    spec = grid.spec
    if spec.bits > 8 or (spec.bits < 8 and codes is None):
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


def known_ranges(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Range of every activation site, also of those that another target has on.

    With them in the file, `qdq.graph.retarget` needs no data.
    """
    found = {}
    for site, quantizer in quantizers(model).items():
        low, high = quantizer.amin, quantizer.amax
        if not is_weight(site) and low is not None and high is not None and high.numel() == 1:
            found[site] = float(low), float(high)
    return found


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()


def refuse_lost_sites(graph: gs.Graph, calls: list[str], active: Collection[str]) -> None:
    """Every quantizer that is on ran, and every run left its marker in the graph.

    Args:
        graph: with markers.
        calls: the site of each call.
        active: sites that are on.

    Raises:
        ExportError: it did not, or the marker is gone.
    """
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


def row_of(grid: SiteGrid, tensor: str) -> SiteRow:
    """The row of a site in the report; `tensor` is what leaves it in the file."""
    return SiteRow(
        grid.site,
        tensor,
        str(grid.zero_point.dtype),
        float(grid.scale.min()),
        float(grid.scale.max()),
        int(grid.zero_point.flat[0]),
        grid.scale.size,
    )
