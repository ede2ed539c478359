"""What lint found in a file, and what it mended."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qdq.records.base import Record

Level: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule.

    Attributes:
        rule: its id.
        severity: "error", "warning" or "note".
        node: the node that shows it: its name, or its operator and first output.
        tensor: the tensor it is about.
        why: what is wrong there.
        fix: what to do about it.
    """

    rule: str
    severity: Level
    node: str
    tensor: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} at {self.node}: {self.why}\n  fix: {self.fix}"


@dataclass(frozen=True)
class LintReport(Record):
    """The rules that a file breaks.

    Attributes:
        path: the file.
        target: the runtime it is judged for.
        boundaries: how many Q and DQ nodes it has; without any it is a float model.
        rows: one Finding per broken rule and node; of a mended file, what is left.
        mended: what was mended, in the file `written`.
        written: where the mended file is; empty where nothing was to be written.
    """

    path: str
    target: str
    boundaries: int
    rows: tuple[Finding, ...]
    mended: tuple[Finding, ...] = ()
    written: str = ""

    @property
    def counts(self) -> dict[Level, int]:
        """How many findings of each severity there are, the worst first."""
        found = Counter(row.severity for row in self.rows)
        levels: tuple[Level, ...] = ("error", "warning", "note")
        return {level: found[level] for level in levels}

    def to_dict(self) -> dict[str, Any]:
        """As every record, with the count per severity."""
        return {**super().to_dict(), "counts": self.counts}

    def __str__(self) -> str:
        said = ", ".join(
            f"{count} {level}{'' if count == 1 else 's'}" for level, count in self.counts.items()
        )
        held = "" if self.boundaries else ", for there is no Q or DQ in it"
        lines = [f"{self.path} for {self.target}: {said}{held}"]
        if self.written:
            lines[0] += f"; {len(self.mended)} mended in {self.written}"
        return "\n".join([*lines, *map(str, self.rows)])
