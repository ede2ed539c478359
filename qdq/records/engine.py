"""What TensorRT made of a file, beside what its rules let expect."""

from dataclasses import dataclass

from qdq.records.base import Record
from qdq.records.explanation import ExplanationReport, Fate


@dataclass(frozen=True)
class LayerRow:
    """One layer of an engine.

    Attributes:
        name: as TensorRT calls it.
        kind: its type, such as CaskConvolution.
        fate: in which numbers it computes, by the types of what it reads and gives.
        nodes: names of the nodes of the file that its name or its metadata tell.
    """

    name: str
    kind: str
    fate: Fate
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class BuiltRow:
    """One node that computes, as predicted and as built.

    Attributes:
        name: of the node.
        op: its operator.
        predicted: in which numbers the rules let it compute.
        built: in which numbers the layer that names it does; None where no layer names it, as when
            TensorRT leaves an activation out of the name of the layer it is fused with.
        layer: name of that layer; "" where there is none.
    """

    name: str
    op: str
    predicted: Fate
    built: Fate | None
    layer: str


@dataclass(frozen=True)
class EngineReport(Record):
    """An engine compared with the prediction.

    Attributes:
        source: where the engine is known from: a version of TensorRT, or a file of its layers.
        predicted: the explanation by rules.
        layers: one per layer of the engine, in its order.
        rows: one per node that computes.
    """

    source: str
    predicted: ExplanationReport
    layers: tuple[LayerRow, ...]
    rows: tuple[BuiltRow, ...]

    @property
    def differing(self) -> tuple[BuiltRow, ...]:
        """The nodes that compute in other numbers than predicted."""
        return tuple(row for row in self.rows if row.built not in (None, row.predicted))

    def __str__(self) -> str:
        named = [row for row in self.rows if row.built is not None]
        lines = [
            f"{self.predicted.path} on tensorrt, by {self.source}: {len(self.layers)} layers; of "
            f"{len(self.rows)} nodes that compute {len(named)} are named by a layer, "
            f"{len(named) - len(self.differing)} of them run in the numbers that were predicted"
        ]
        lines += [
            f"{row.name}: {row.predicted} by its rules, {row.built} in {row.layer}"
            for row in self.differing
        ]
        return "\n".join(lines)
