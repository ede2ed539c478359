"""What an activation site looks like: its values, and where each method would clip them."""

from dataclasses import dataclass

from qdq.records.base import Record


@dataclass(frozen=True)
class SitePicture(Record):
    """One activation site, small enough to draw.

    Attributes:
        site: its name.
        low: left end of the picture, unit of x: the smallest value seen, or 0 if that is less.
        high: right end: the largest value seen, or 0 if that is more.
        counts: values in each of equal bins from `low` to `high`; they sum to all values seen.
        thresholds: method -> (amin, amax), the range it chooses.
        clipped: method -> share of the values outside its range, 0..1.
        chosen: the method whose range the site has.
    """

    site: str
    low: float
    high: float
    counts: tuple[int, ...]
    thresholds: dict[str, tuple[float, float]]
    clipped: dict[str, float]
    chosen: str
