"""Which places of a stripped graph a target quantizes, with the grids that the file allows."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from qdq.graph.retargeting.biases import fits
from qdq.graph.retargeting.grids import HeldCodes, Known, PairGrid, Range, grid_for
from qdq.graph.retargeting.places import Map, Place
from qdq.graph.retargeting.ranges import Ranges
from qdq.graph.retargeting.signs import is_nonnegative
from qdq.graph.retargeting.stripping import Stripped
from qdq.graph.retargeting.weights import Written, written
from qdq.records.retargeting import Loss
from qdq.targets import Target
from qdq.targets.placement import place

_INF = float("inf")
_FLOAT_WEIGHT = "its weight is float in the file"


@dataclass(frozen=True, eq=False)
class Rounding:
    """An activation that the second file rounds.

    Attributes:
        place: at which operator.
        role: "input", "input_1", "output".
        tensor: what is rounded, in front of any clamp behind the operator.
        end: what leaves the operator, behind that clamp; of an input the tensor itself.
        range: between which values `end` lies.
        known: what that is known from.
        grid: in the second file.
    """

    place: Place
    role: str
    tensor: gs.Tensor
    end: gs.Tensor
    range: Range
    known: Known
    grid: PairGrid

    @property
    def site(self) -> str:
        """Its name in the second file."""
        return self.place.site(self.role)


@dataclass
class Plan:
    """What the second file quantizes.

    Attributes:
        roundings: of activations.
        weighed: the layers and tables whose weights stay codes.
        weights: name of the node of each of these -> what its weight becomes.
        reasons: name of each place's node -> (whether it is quantized, why).
        missing: (place, role) that the target would round, and no range is known of.
        losses: what could not be kept.
    """

    roundings: list[Rounding] = field(default_factory=list)
    weighed: list[Place] = field(default_factory=list)
    weights: dict[str, Written] = field(default_factory=dict)
    reasons: dict[str, tuple[bool, str]] = field(default_factory=dict)
    missing: list[tuple[Place, str]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


class Placer:
    """Asks the target's placement what to round, and takes back what there is no range for.

    Args:
        stripped: the float graph and what its Q/DQ said.
        map_: its places.
        ranges: what is known of its tensors.
        target: the runtime.
        match: whether steps are kept.
    """

    def __init__(
        self, stripped: Stripped, map_: Map, ranges: Ranges, target: Target, *, match: bool
    ) -> None:
        self._stripped, self._map, self._ranges = stripped, map_, ranges
        self._target, self._match = target, match

    def plan(self) -> Plan:
        """The whole plan; what lacks a range is named in it and stays float."""
        plan = Plan()
        sites = dict(self._sites(plan))
        silent: set[tuple[str, str]] = set()  # outputs of layers that nothing is known of
        while True:
            asked = [(name, role) for name, roles in sites.items() for role in roles]
            decisions = place(sites, self._map.ops, self._target)
            decided = [(*pair, each) for pair, each in zip(asked, decisions, strict=True)]
            on = [(name, role) for name, role, each in decided if each.action == "quantize"]
            rounded = [pair for pair in on if pair[1] != "weight" and pair not in silent]
            lacking = [pair for pair in rounded if not self._has(*pair)]
            if not lacking:
                break
            for name, role in lacking:
                plan.missing.append((self._map.places[name], role))
                if self._map.places[name].product is not None:
                    silent.add((name, role))
                else:
                    sites.pop(name, None)
        for name, role, decision in decided:
            known = plan.reasons.get(name)
            if role != "output" and (known is None or not known[0]):
                plan.reasons[name] = (decision.action == "quantize", decision.why)
        self._say_missing(plan, silent)
        rounded += list(self._as_they_are(plan))
        plan.roundings = [self._rounding(name, role) for name, role in rounded]
        for name, role in on:
            held = self._held(self._map.places[name]) if role == "weight" else None
            if held is not None:
                plan.weighed.append(self._map.places[name])
                plan.weights[name] = written(held, self._target)
        return plan

    def _sites(self, plan: Plan) -> Iterator[tuple[str, list[str]]]:
        """The roles of each place that the file tells enough of."""
        for name, each in self._map.places.items():
            if each.product is not None:
                why = self._why_float(each)
                if why:
                    plan.reasons[name] = (False, why)
                    if why != _FLOAT_WEIGHT:
                        what = "bias" if "bias" in why else "range"
                        plan.losses.append(Loss(name, what, f"{why}: it stays float"))
                    continue
                yield name, ["input", "weight", "output"]
            elif each.weight is not None:
                if self._held(each) is not None:
                    yield name, ["weight"]
            else:
                yield name, [*each.roles, *(["output"] if each.has_output else [])]

    def _held(self, each: Place) -> HeldCodes | None:
        """The 8-bit codes that a weight was."""
        if each.weight is None:
            return None
        held = self._stripped.constants.get(each.node.inputs[each.weight].name)
        return None if held is None or held.codes.dtype == np.int32 else held

    def _why_float(self, each: Place) -> str:
        """Why a layer cannot be quantized; empty where it can."""
        held = self._held(each)
        if held is None:
            return _FLOAT_WEIGHT
        known = self._known(each, "input")
        if known is None:
            return "the range of its input is not in the file, nor can it be derived"
        bias, product = None, each.product
        if product is not None:
            bias = product.bias_values
        if bias is not None and self._target.integer_bias:
            of_input = self._grid(each, "input", known)
            if not fits(bias, of_input, written(held, self._target).scale):
                return "its bias does not fit int32 codes of its scale (O25)"
        return ""

    def _known(self, each: Place, role: str) -> Known | None:
        if role == "output":
            end = self._map.end_of(each)[0]
            site = "" if self._is_inner_sum(each) else each.site(role)
            return self._ranges.of_result(end, site)
        return self._ranges.of_edge(each.node, each.roles[role], each.site(role))

    def _is_inner_sum(self, each: Place) -> bool:
        """Whether one more addition follows: what is noted of a sum is then meant of all of it."""
        reader = self._map.ops.only_reader(each.op.outputs[0])
        return each.op.kind == "add" and reader is not None and reader.kind == "add"

    def _has(self, name: str, role: str) -> bool:
        return self._known(self._map.places[name], role) is not None

    def _as_they_are(self, plan: Plan) -> Iterator[tuple[str, str]]:
        """Pairs of the file at places that lack one; of use only where some may be float."""
        if self._target.quantize_outputs:
            return
        for each in dict.fromkeys(one for one, _ in plan.missing if one.product is None):
            for role, index in each.roles.items():
                if (id(each.node), index) in self._stripped.edges:
                    yield each.node.name, role

    def _range(self, each: Place, role: str, known: Known) -> Range:
        """What is known of a place, cut down to what can leave a clamp or what cannot be < 0."""
        low, high = known.range
        end, limits = self._end(each, role)
        least, most = limits or (-_INF, _INF)
        if is_nonnegative(end):
            least = max(least, 0.0)
        return min(max(low, least), most), min(max(high, least), most)

    def _end(self, each: Place, role: str) -> tuple[gs.Tensor, Range | None]:
        if role == "output":
            return self._map.end_of(each)
        return each.node.inputs[each.roles[role]], None

    def _grid(self, each: Place, role: str, known: Known) -> PairGrid:
        range_ = self._range(each, role, known)
        return grid_for(self._target, range_, known, match=self._match)

    def _rounding(self, name: str, role: str) -> Rounding:
        each = self._map.places[name]
        known = self._known(each, role)
        assert known is not None  # plan asked for it
        end = self._end(each, role)[0]
        tensor = each.total.outputs[0] if role == "output" else end
        range_ = self._range(each, role, known)
        return Rounding(each, role, tensor, end, range_, known, self._grid(each, role, known))

    def _say_missing(self, plan: Plan, silent: set[tuple[str, str]]) -> None:
        for each, role in plan.missing:
            tensor = self._map.read_by(each, role)
            why = f"the range of {tensor.name} is not in the file, nor can it be derived"
            if (each.node.name, role) in silent:
                plan.losses.append(
                    Loss(each.node.name, "range", f"{why}: it gives float, and so runs in float")
                )
            else:
                plan.reasons[each.node.name] = (False, why)
                plan.losses.append(Loss(each.node.name, "range", f"{why}: it stays float"))
