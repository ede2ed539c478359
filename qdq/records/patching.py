"""What `initialize` makes of building a layer, class by class: its report."""

from dataclasses import dataclass

from qdq.records.base import Record
from qdq.records.decisions import Action, Decision


@dataclass(frozen=True)
class InitializeReport(Record):
    """Which float classes build their quantized twins, and which do not.

    Attributes:
        rows: one Decision per class: "quantize" where it builds its twin from now on, under every
            name it was imported by; "skip" where it builds itself, with the reason.
    """

    rows: tuple[Decision, ...]

    def select(self, action: Action) -> tuple[Decision, ...]:
        """The rows of one action."""
        return tuple(row for row in self.rows if row.action == action)

    def __str__(self) -> str:
        reached, left = self.select("quantize"), self.select("skip")
        lines = [f"{len(reached)} classes build their quantized twins, however they were imported"]
        lines += [f"  {row.name} {row.why}" for row in reached]
        lines += [f"  left float: {row.name}: {row.why}" for row in left]
        return "\n".join(lines)
