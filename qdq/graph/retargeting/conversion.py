"""One file on its way from one target's form to another's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto

from qdq.errors import QdqError
from qdq.graph.edges import infer_shapes
from qdq.graph.quantizing.feeding import Feed
from qdq.graph.quantizing.observing import observe
from qdq.graph.retargeting.clamps import open_tensors, unclamped, unkept_inputs
from qdq.graph.retargeting.evidence import clipped_shares, shares
from qdq.graph.retargeting.notes import noted_ranges
from qdq.graph.retargeting.places import Map, map_of
from qdq.graph.retargeting.placing import Placer, Plan, Rounding
from qdq.graph.retargeting.ranges import Ranges
from qdq.graph.retargeting.reading import as_graph
from qdq.graph.retargeting.stripping import Stripped, given_as_codes, strip
from qdq.graph.retargeting.trials import Trials
from qdq.numerics.histogram import Histogram
from qdq.numerics.thresholds import choose
from qdq.records.retargeting import GridRow, Loss, OperatorRow
from qdq.targets import Target

_ROUNDS = 8  # a range that was measured may let others be asked for


@dataclass
class Conversion:
    """One file on its way.

    Attributes:
        model: the first file.
        stripped: its float graph, and what its Q/DQ said.
        map_: its places.
        ranges: of its tensors.
        target: the runtime.
        match: whether steps are kept.
        plan: what the second file quantizes.
    """

    model: ModelProto
    stripped: Stripped
    map_: Map
    ranges: Ranges
    target: Target
    match: bool
    plan: Plan

    @classmethod
    def of(cls, model: ModelProto, target: Target, *, match: bool) -> "Conversion":
        """Strip a model and plan what the target wants."""
        graph = as_graph(model)
        infer_shapes(graph)
        stripped = strip(graph)
        infer_shapes(graph)
        map_ = map_of(stripped)
        ranges = Ranges(stripped, noted_ranges(model))
        plan = Placer(stripped, map_, ranges, target, match=match).plan()
        return cls(model, stripped, map_, ranges, target, match, plan)

    def measure_missing(self, batches: Sequence[Feed], method: str) -> None:
        """Ranges that no pair tells are those of the float graph on the data."""
        for _ in range(_ROUNDS if batches else 0):
            names = list(dict.fromkeys(self.map_.read_by(*each).name for each in self.plan.missing))
            if not names:
                return
            found = observe(self.stripped.graph, self.model.opset_import, names, batches)
            levels = 2**self.target.activation.bits - 1
            for name, hist in found.items():
                choice = choose(hist, method, levels=levels)
                self.ranges.measure(name, (choice.amin, choice.amax))
            placer = Placer(self.stripped, self.map_, self.ranges, self.target, match=self.match)
            self.plan = placer.plan()

    def seen(self, batches: Sequence[Feed], *, drawn: bool) -> dict[str, Histogram]:
        """What is rounded, or was, sees; nothing where random inputs make no sense of the model."""
        if not batches:
            return {}
        names = [each.end.name for each in self.plan.roundings]
        names += [each.tensor.name for each in open_tensors(self.stripped, self.plan)]
        try:
            return clipped_shares(self.stripped, self.model, names, batches)
        except QdqError:
            if drawn:
                return {}
            raise

    def losses(self, seen: Mapping[str, Histogram]) -> tuple[Loss, ...]:
        """What could not be kept; to be asked before the graph is marked."""
        found = [*unkept_inputs(self.stripped, self.plan), *self.plan.losses]
        named = {each.place for each in found if each.what == "clamp"}
        opened = open_tensors(self.stripped, self.plan)
        found += unclamped([each for each in opened if each.tensor.name not in named], seen)
        if self.target.activation.symmetric:
            found += given_as_codes(self.stripped)
        return tuple(found)

    def rows(self) -> tuple[OperatorRow, ...]:
        """One per operator that the target could quantize, each run alone."""
        trials = Trials(
            self.stripped, self.map_, self.plan, self.target, self.model, match=self.match
        )
        found = []
        for name, place in self.map_.places.items():
            on, why = self.plan.reasons.get(name, (False, "nothing is known of it"))
            held = place.weight is not None and (
                place.node.inputs[place.weight].name in self.stripped.constants
            )
            weight = self.plan.weights.get(name)
            how = weight.how if weight is not None else "float" if held else ""
            fate: Literal["integer", "float"] = "integer" if on else "float"
            found.append(OperatorRow(name, place.node.op, fate, why, how, trials.steps(place)))
        return tuple(found)

    def grid_rows(self, seen: dict[str, Histogram]) -> tuple[GridRow, ...]:
        """One per rounded activation."""
        return tuple(self._grid_row(each, seen) for each in self.plan.roundings)

    def _grid_row(self, each: Rounding, seen: dict[str, Histogram]) -> GridRow:
        before = self.stripped.tensors.get(each.end.name)
        if each.role != "output":
            edge = (id(each.place.node), each.place.roles[each.role])
            before = self.stripped.edges.get(edge, before)
        return GridRow(
            each.site,
            each.end.name,
            "" if before is None else str(before.grid),
            str(each.grid),
            each.known.origin,
            shares(seen, each.end.name, None if before is None else before.grid.ends),
            shares(seen, each.end.name, each.grid.ends),
        )
