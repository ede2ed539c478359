"""What calibration saw and chose."""

from dataclasses import dataclass

from qdq.records.base import Record


@dataclass(frozen=True)
class RangeRow:
    """One activation site.

    Attributes:
        site: its name.
        amin: lower end of the chosen range, unit of x.
        amax: upper end.
        seen_min: smallest value seen.
        seen_max: largest value seen.
        values: how many values were seen.
        method: what chose the range; under "auto" the one that was taken.
        why: what that was taken for.
    """

    site: str
    amin: float
    amax: float
    seen_min: float
    seen_max: float
    values: int
    method: str
    why: str


@dataclass(frozen=True)
class CalibrationReport(Record):
    """The range of every activation site.

    Attributes:
        method: how ranges were chosen from what was seen.
        batches: how many batches were counted, in other processes and earlier runs too; 0 where
            ranges came from kept histograms.
        samples: how many rows these batches held; 0 where they are of a form of the user's own.
        rows: one per site, those that the present target leaves off included.
    """

    method: str
    batches: int
    samples: int
    rows: tuple[RangeRow, ...]

    def __str__(self) -> str:
        clipped = sum(row.amin > row.seen_min or row.amax < row.seen_max for row in self.rows)
        return (
            f"{len(self.rows)} sites, ranges by {self.method!r} from {self.batches} batches; "
            f"{clipped} sites clip"
        )
