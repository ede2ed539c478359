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
class RepairRow:
    """What one repair did to one layer.

    Attributes:
        layer: its name.
        method: name of the repair.
        before_db: signal-to-quantization-noise ratio of what the layer computes, dB; the repair
            says which noise it counts. inf where there is none.
        after_db: the same, afterwards.
    """

    layer: str
    method: str
    before_db: float
    after_db: float


@dataclass(frozen=True)
class CalibrationReport(Record):
    """The range of every activation site.

    Attributes:
        method: how ranges were chosen from what was seen.
        batches: how many batches were counted, in other processes and earlier runs too; 0 where
            ranges came from kept histograms.
        samples: how many rows these batches held; 0 where they are of a form of the user's own.
        rows: one per site, those that the present target leaves off included.
        repairs: what each repair did to each layer, in the order they ran.
    """

    method: str
    batches: int
    samples: int
    rows: tuple[RangeRow, ...]
    repairs: tuple[RepairRow, ...] = ()

    def __str__(self) -> str:
        clipped = sum(row.amin > row.seen_min or row.amax < row.seen_max for row in self.rows)
        ran = ", ".join(dict.fromkeys(row.method for row in self.repairs))
        return (
            f"{len(self.rows)} sites, ranges by {self.method!r} from {self.batches} batches; "
            f"{clipped} sites clip" + (f"; repaired by {ran}" if ran else "")
        )
