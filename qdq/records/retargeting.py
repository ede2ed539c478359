"""What rewriting a Q/DQ file for another target kept, changed and lost: its certificate."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from qdq.records.base import Record

Fate: TypeAlias = Literal["integer", "float"]


@dataclass(frozen=True)
class OperatorRow:
    """One operator that the target could run on codes.

    Attributes:
        name: of its node in the first file.
        op: its operator.
        fate: whether the second file quantizes what it reads.
        why: the rule that decided it, or what was missing.
        weight: what became of its weight: "kept", code for code; "shifted", code for code by 128;
            "requantized"; written as "float"; "" where it has none that was quantized.
        steps: the largest difference between both files' forms of it when they are run in
            onnxruntime on equal inputs within the range of both, in steps of the coarser of the
            grids behind it; None where it was not run.
    """

    name: str
    op: str
    fate: Fate
    why: str
    weight: str = ""
    steps: float | None = None


@dataclass(frozen=True)
class GridRow:
    """One tensor that is rounded.

    Attributes:
        site: name of the place in the second file.
        tensor: the float tensor there, by its name in the first file.
        before: its grid in the first file; "" where it has none.
        after: its grid in the second.
        origin: where the range is from: the "file", "derived" from a neighbour, "measured" on
            data, or "noted" in the file's metadata.
        clipped_before: share of its values beyond the ends of the first grid.
        clipped_after: share beyond those of the second. None where nothing was run.
    """

    site: str
    tensor: str
    before: str
    after: str
    origin: str
    clipped_before: float | None = None
    clipped_after: float | None = None


@dataclass(frozen=True)
class Loss:
    """Something that could not be kept.

    Attributes:
        place: name of the node or tensor.
        what: "range", "pair", "constant", "clamp", "bias", "weight".
        why: what is missing, and what became of the place.
    """

    place: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} at {self.place}: {self.why}"


@dataclass(frozen=True)
class RetargetReport(Record):
    """One file's quantization in another target's form.

    Attributes:
        source: the first file.
        destination: the second file.
        target: what the second is for.
        match: whether steps were kept so that codes of both files map one to one.
        evidence: what both files were run on.
        sqnr: of the second file's outputs against the first's, dB; infinite where they are equal,
            None where the files were not run.
        largest: the largest absolute difference of an output.
        agreement: share of samples whose largest class score is the same one; None for other
            outputs than (N, classes).
        rows: one per operator that the target could run on codes.
        grids: one per rounded activation of the second file.
        losses: what could not be kept.
        passes: speed pass -> how many places it rewrote.
    """

    source: str
    destination: str
    target: str
    match: bool
    evidence: str
    sqnr: float | None
    largest: float | None
    agreement: float | None
    rows: tuple[OperatorRow, ...]
    grids: tuple[GridRow, ...]
    losses: tuple[Loss, ...]
    passes: dict[str, int] = field(default_factory=dict)

    @property
    def worst_steps(self) -> float | None:
        """The largest difference of an operator's two forms, in steps."""
        return max((row.steps for row in self.rows if row.steps is not None), default=None)

    def __str__(self) -> str:
        fates = Counter(row.fate for row in self.rows)
        weights = Counter(row.weight for row in self.rows if row.weight)
        lines = [
            f"{self.source} -> {self.destination} for {self.target}: "
            f"{fates['integer']} operators quantized, {fates['float']} float; weights "
            + (", ".join(f"{count} {what}" for what, count in weights.items()) or "none")
        ]
        if self.worst_steps is not None:
            lines.append(f"each operator alone: at most {self.worst_steps:.3g} steps apart")
        if self.sqnr is not None and self.largest is not None:
            top = "" if self.agreement is None else f", same class {self.agreement:.2%}"
            difference = f"{self.sqnr:.1f} dB, largest difference {self.largest:.3g}{top}"
            lines.append(f"whole file, on {self.evidence}: {difference}")
        else:
            lines.append(f"whole file, on {self.evidence}")
        return "\n".join([*lines, *(f"not kept: {loss}" for loss in self.losses)])
