"""What was decided at each module and site, and why: the reports of fuse and insert."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from qdq.records.base import Record

Action = Literal["quantize", "off", "skip", "fold"]


@dataclass(frozen=True)
class Decision:
    """One choice with its reason.

    Attributes:
        name: the module or site.
        action: "quantize" (a site that is on), "off" (a site this target does not use), "skip" (a
            module left float), "fold" (a BatchNorm that is gone).
        why: one clause, with the rule's id where there is one.
    """

    name: str
    action: Action
    why: str


@dataclass(frozen=True)
class FuseReport(Record):
    """What `fuse` folded and what it left.

    Attributes:
        rows: one Decision per BatchNorm.
    """

    rows: tuple[Decision, ...]

    @property
    def folded(self) -> tuple[str, ...]:
        """Names of the BatchNorms that are gone."""
        return tuple(row.name for row in self.rows if row.action == "fold")

    def __str__(self) -> str:
        lines = [f"folded {len(self.folded)} of {len(self.rows)} BatchNorms"]
        lines += [f"  {row.name}: {row.why}" for row in self.rows if row.action != "fold"]
        return "\n".join(lines)


@dataclass(frozen=True)
class InsertReport(Record):
    """Every site and every module left alone, with the reason.

    Attributes:
        target: the runtime the active sites are placed for.
        rows: one Decision per site, and per module left float.
        predicted: time of one forward over that in float, by the target's table of costs; None
            where it cannot be told.
    """

    target: str
    rows: tuple[Decision, ...]
    predicted: float | None = None

    def select(self, action: Action) -> tuple[Decision, ...]:
        """The rows of one action."""
        return tuple(row for row in self.rows if row.action == action)

    def to_dict(self) -> dict[str, Any]:
        """As every record, with the count per action."""
        return {**super().to_dict(), "counts": dict(Counter(row.action for row in self.rows))}

    def __str__(self) -> str:
        on, off = len(self.select("quantize")), len(self.select("off"))
        lines = [f"{self.target}: {on} sites quantize, {off} are kept for other targets"]
        lines += [f"  left float: {row.name}: {row.why}" for row in self.select("skip")]
        return "\n".join([*lines, *told_ratio(self.predicted)])


def told_ratio(predicted: float | None) -> list[str]:
    """A predicted ratio of times in words, with the way out where it is no gain; a line at most.

    Args:
        predicted: time over that in float; None: there is nothing to say.
    """
    if predicted is None:
        return []
    told = f"  predicted to take {predicted:.2f} of the float time"
    warning = ", so it is slower: the target's option fastest=True leaves float what is faster so"
    return [told + (warning if predicted > 1 else "")]
