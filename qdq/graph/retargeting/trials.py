"""One operator alone, in the form of the first file and in that of the second, both run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from qdq.graph.edges import Array
from qdq.graph.lowering import SiteGrid, lower
from qdq.graph.quantizing.marking import MARKER
from qdq.graph.retargeting.biases import integer_bias
from qdq.graph.retargeting.grids import HeldCodes, PairGrid, Range
from qdq.graph.retargeting.places import Map, Place
from qdq.graph.retargeting.placing import Plan
from qdq.graph.retargeting.running import run_once
from qdq.graph.retargeting.samples import values_for
from qdq.graph.retargeting.stripping import Stripped
from qdq.graph.retargeting.writing import ir_version_of, lowered
from qdq.targets import Target

_LAST_CODE = 127


@dataclass(frozen=True, eq=False)
class _Form:
    """What one file makes of an operator.

    Attributes:
        inputs: number of the node's input -> its grid; those without are float.
        weight: its codes; None: float.
        bias: int32 codes; None: float.
        result: the grid of what leaves it; None: float.
    """

    inputs: Mapping[int, PairGrid]
    weight: HeldCodes | None
    bias: SiteGrid | None
    result: PairGrid | None


class Trials:
    """Runs single operators of a stripped graph that is not marked yet.

    Args:
        stripped: the graph and what its Q/DQ said.
        map_: its places.
        plan: what the second file quantizes.
        target: the runtime of the second file.
        model: the first file, for its opsets.
        match: whether steps were kept; then values are drawn that both files have codes for.
    """

    def __init__(
        self,
        stripped: Stripped,
        map_: Map,
        plan: Plan,
        target: Target,
        model: ModelProto,
        *,
        match: bool,
    ) -> None:
        self._stripped, self._map, self._plan = stripped, map_, plan
        self._target, self._model, self._match = target, model, match
        self._ends = {each.end.name: each.grid for each in reversed(plan.roundings)}
        self._rounded = {
            (each.place.node.name, each.place.roles[each.role]): each.grid
            for each in plan.roundings
            if each.role != "output"
        }

    def steps(self, place: Place) -> float | None:
        """How far apart both forms of an operator are, in steps of the coarser grid behind it.

        Both are fed equal random values, within the ranges of both, and compared within the ranges
        of both: the first file's in unoptimized onnxruntime, which computes what the operators say;
        so is the second's, unless it is made for integer kernels: then by these.

        Returns:
            None where neither quantizes it, or it is none that can be run alone.
        """
        before, after = self._before(place), self._after(place)
        if not (before.inputs or after.inputs):
            return None
        if before.result is None or after.result is None:  # who reads it rounds it as the other
            result = before.result or after.result
            before, after = (replace(each, result=result) for each in (before, after))
        feeds = values_for(place, (before.inputs, after.inputs), on_grid=self._match)
        if feeds is None:
            return None
        results = []
        for form, target in ((before, None), (after, self._target)):
            model = self._alone(place, form, feeds, target)
            found = run_once(model, feeds, optimize=target is not None and target.quantize_outputs)
            if found is None:
                return None
            results.append(found)
        grids = [each.result for each in (before, after) if each.result is not None]
        low = max((each.range[0] for each in grids), default=-np.inf)
        high = min((each.range[1] for each in grids), default=np.inf)
        first, second = (np.clip(each.astype(np.float64), low, high) for each in results)
        scales = [each.scale for each in grids]
        step = max(scales, default=float(np.abs(first).max(initial=0)) / _LAST_CODE)
        largest = float(np.abs(first - second).max(initial=0))
        return round(largest / step, 3) if step else 0.0

    def _before(self, place: Place) -> _Form:
        edges = self._stripped.edges
        seen = {index: edges.get((id(place.node), index)) for index in place.inputs}
        held = self._codes(place.node, place.weight)
        product = place.product
        of_bias = None if product is None else self._codes(product.total, product.bias)
        bias = None
        if of_bias is not None and of_bias.codes.dtype == np.int32:
            grids = (of_bias.scale, of_bias.zero_point, of_bias.axis, of_bias.codes)
            bias = SiteGrid("bias", *grids)
        end = self._stripped.tensors.get(self._map.end_of(place)[0].name)
        return _Form(
            {index: each.grid for index, each in seen.items() if each is not None},
            held,
            bias,
            None if end is None else end.grid,
        )

    def _after(self, place: Place) -> _Form:
        name, product = place.node.name, place.product
        inputs = {
            index: self._rounded[name, index]
            for index in place.inputs
            if (name, index) in self._rounded
        }
        weight, bias = self._plan.weights.get(name), None
        if product is not None and weight is not None and 0 in inputs:
            values, held = product.bias_values, self._codes(product.total, product.bias)
            if values is not None and self._target.integer_bias:
                bias = integer_bias("bias", values, held, inputs[0], weight.scale)
        end = self._map.end_of(place)[0].name
        codes = None if weight is None else weight.codes
        return _Form(inputs, codes, bias, self._ends.get(end))

    def _codes(self, node: gs.Node, index: int | None) -> HeldCodes | None:
        return None if index is None else self._stripped.constants.get(node.inputs[index].name)

    def _alone(
        self, place: Place, form: _Form, feeds: Mapping[str, Array], target: Target | None
    ) -> ModelProto:
        """The operator as a model, in the form of the first file or, with a target, the second."""
        graph = gs.Graph(opset=self._stripped.graph.opset)
        graph.inputs = [gs.Variable(name, np.float32, each.shape) for name, each in feeds.items()]
        result, grids = _computed(graph, place, form, self._map.end_of(place)[1])
        result.dtype = np.dtype(np.float32)
        graph.outputs = [result]
        if target is None:
            lower(graph, grids, marker=MARKER)
        else:
            lowered(graph, grids, target)
        graph.cleanup().toposort()
        opsets = [each for each in self._model.opset_import if not each.domain]
        model: ModelProto = gs.export_onnx(graph, do_type_check=False, opset_imports=opsets)
        model.ir_version = ir_version_of(self._model)
        return model


def _computed(
    graph: gs.Graph, place: Place, form: _Form, limits: Range | None
) -> tuple[gs.Variable, dict[str, SiteGrid]]:
    """Add the operator, the clamp behind it and markers to a graph; gives result and grids."""
    grids: dict[str, SiteGrid] = {}

    def marked(tensor: gs.Tensor, grid: SiteGrid | None) -> gs.Tensor:
        if grid is None:
            return tensor
        grids[grid.site] = grid
        result = gs.Variable(f"{grid.site}.marked", np.float32, tensor.shape)
        graph.nodes.append(gs.Node(MARKER, grid.site, {"site": grid.site}, [tensor], [result]))
        return result

    def copied(node: gs.Node, replaced: Mapping[int, gs.Tensor]) -> gs.Variable:
        given = [replaced.get(index, each) for index, each in enumerate(node.inputs)]
        given = [
            gs.Constant(each.name, each.values) if isinstance(each, gs.Constant) else each
            for each in given
        ]
        result = gs.Variable(f"{node.name}.result", np.float32)
        graph.nodes.append(gs.Node(node.op, node.name, dict(node.attrs), given, [result]))
        return result

    replaced = {
        index: marked(each, _site_grid(f"input_{index}", form.inputs.get(index)))
        for index, each in zip(place.inputs, graph.inputs, strict=True)
    }
    weight, product = form.weight, place.product
    if weight is not None and place.weight is not None:
        constant = gs.Constant("weight", weight.values())
        grids_of = (weight.scale, weight.zero_point, weight.axis, weight.codes)
        replaced[place.weight] = marked(constant, SiteGrid("weight", *grids_of))
    total, biased = place.total, {}
    if product is not None and product.bias is not None and form.bias is not None:
        biased = {product.bias: marked(gs.Constant("bias", product.bias_values), form.bias)}
    if total is place.node:
        result = copied(total, replaced | biased)
    else:
        inner = {1 - (product.bias or 0) if product else 0: copied(place.node, replaced)}
        result = copied(total, inner | biased)
    if limits is not None:
        ends = [gs.Constant(f"limit_{end}", np.array(end, np.float32)) for end in limits]
        clamped = gs.Variable("clamped", np.float32)
        given = [result] if np.isinf(limits[1]) else [result, *ends]
        op = "Relu" if np.isinf(limits[1]) else "Clip"
        graph.nodes.append(gs.Node(op, "clamp", {}, given, [clamped]))
        result = clamped
    last = marked(result, _site_grid("result", form.result))
    assert isinstance(last, gs.Variable)
    return last, grids


def _site_grid(site: str, grid: PairGrid | None) -> SiteGrid | None:
    return None if grid is None else SiteGrid(site, *grid.arrays())
