"""Where everything in a drawing goes: records -> coordinates. The templates draw the SVG."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qdq.records.pictures import SitePicture
from qdq.records.ranking import SensitivityReport, SensitivityRow

MOST_BARS = 40
COLOURS = 8  # classes m0..m7 in style.html

_ROW, _CHAR, _NAME, _METRIC, _FIGURES = 19, 7.2, 34, 11, 232
BARS_WIDTH = 940
_LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT, _STEP = 32, 8, 288, 96, 6
SITE_WIDTH, SITE_HEIGHT = _LEFT + _PLOT_WIDTH + 16, _TOP + _PLOT_HEIGHT + 20


@dataclass(frozen=True)
class Bar:
    """One layer of the sensitivity chart; lengths in user units of the SVG.

    Attributes:
        row: what is drawn.
        label: the layer's name, short enough for its place.
        text_y: baseline of the text.
        y: top of the bar.
        x: left end.
        width: >= 0.
    """

    row: SensitivityRow
    label: str
    text_y: float
    y: float
    x: float
    width: float


@dataclass(frozen=True)
class BarChart:
    """The sensitivity chart.

    Attributes:
        width: of the SVG.
        height: of the SVG.
        zero: x of score 0.
        names: right end of the names.
        columns: right ends of the three columns of figures: score, SQNR, metric.
        metric: head of the third.
        bars: the first `MOST_BARS` rows.
    """

    width: int
    height: int
    zero: float
    names: float
    columns: tuple[int, int, int]
    metric: str
    bars: tuple[Bar, ...]


def bar_chart(report: SensitivityReport) -> BarChart:
    """Bars from 0, linear, in the order of the rows; a score that is no number has no bar."""
    rows = report.rows[:MOST_BARS]
    labels = [shorten(row.layer, _NAME) for row in rows]
    names = max([len(label) for label in labels] + [5]) * _CHAR + 2
    left, right = names + 8, BARS_WIDTH - _FIGURES
    scores = [row.score if math.isfinite(row.score) else 0.0 for row in rows]
    least, most = min([*scores, 0.0]), max([*scores, 0.0])
    per_unit = (right - left) / ((most - least) or 1.0)
    zero = left - least * per_unit
    bars = tuple(
        Bar(
            row=row,
            label=label,
            text_y=(index + 2) * _ROW - 5,
            y=(index + 1) * _ROW + 3,
            x=round(zero + min(score, 0.0) * per_unit, 1),
            width=round(abs(score) * per_unit, 1),
        )
        for index, (row, label, score) in enumerate(zip(rows, labels, scores, strict=True))
    )
    columns = (BARS_WIDTH - 160, BARS_WIDTH - 80, BARS_WIDTH - 4)
    height = (len(rows) + 1) * _ROW + 4
    metric = shorten(report.metric_name, _METRIC)
    return BarChart(BARS_WIDTH, height, round(zero, 1), names, columns, metric, bars)


def shorten(name: str, most: int) -> str:
    """`name` with its middle left out where it is longer than `most` characters."""
    if len(name) <= most:
        return name
    tail = (most - 1) * 2 // 3
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"


@dataclass(frozen=True)
class Mark:
    """One method's range in a histogram.

    Attributes:
        method: its name.
        colour: 0..COLOURS-1, the same on every picture of the page.
        chosen: whether the site has this range.
        ends: x of each end that is marked; the end of a one-sided range that lies at 0 is not.
        top: y of the upper end of the lines.
        path: the lines.
    """

    method: str
    colour: int
    chosen: bool
    ends: tuple[float, ...]
    top: int
    path: str


@dataclass(frozen=True)
class SiteChart:
    """One histogram; lengths in user units of the SVG.

    Attributes:
        picture: what is drawn.
        outline: path of the counts, log scale.
        marks: one per method, the chosen one last, so that it lies on top.
        clipped: (x, width) of what the chosen range leaves out, left and right.
        x_ticks: (x, value, text-anchor).
        y_ticks: (y, decade): where 10^decade is.
        left: x of the lower end of the plot.
        right: x of the upper end.
        top: y of the largest count.
        bottom: y of count 0.
    """

    picture: SitePicture
    outline: str
    marks: tuple[Mark, ...]
    clipped: tuple[tuple[float, float], ...]
    x_ticks: tuple[tuple[float, float, str], ...]
    y_ticks: tuple[tuple[float, int], ...]
    left: int = _LEFT
    right: int = _LEFT + _PLOT_WIDTH
    top: int = _TOP
    bottom: int = _TOP + _PLOT_HEIGHT


def colours(pictures: Iterable[SitePicture]) -> dict[str, int]:
    """Method -> number of its colour, in the order of first sight."""
    methods = dict.fromkeys(method for each in pictures for method in each.thresholds)
    return {method: index % COLOURS for index, method in enumerate(methods)}


def site_chart(picture: SitePicture, colour_of: dict[str, int]) -> SiteChart:
    """The histogram of one site with the range of every method."""
    marks = [
        _mark(picture, method, index, colour_of[method])
        for index, method in enumerate(picture.thresholds)
    ]
    marks.sort(key=lambda mark: mark.chosen)
    return SiteChart(
        picture=picture,
        outline=_outline(picture),
        marks=tuple(marks),
        clipped=_left_out(picture),
        x_ticks=_x_ticks(picture),
        y_ticks=_y_ticks(max(picture.counts, default=0)),
    )


def _x(picture: SitePicture, value: float) -> float:
    """Where `value` is, kept inside the plot."""
    share = (value - picture.low) / ((picture.high - picture.low) or 1.0)
    return round(_LEFT + min(max(share, 0.0), 1.0) * _PLOT_WIDTH, 1)


def _y(count: float, most: float) -> float:
    """Where `count` is: log(1 + count), so that 0 has a place and 1 is seen."""
    share = math.log1p(count) / (math.log1p(most) or 1.0)
    return round(_TOP + (1 - share) * _PLOT_HEIGHT, 1)


def _outline(picture: SitePicture) -> str:
    """Steps from the lower left corner to the lower right, equal neighbours joined."""
    bottom, most = _TOP + _PLOT_HEIGHT, max(picture.counts, default=0)
    parts, at = [f"M{_LEFT} {bottom}"], float(bottom)
    for index, count in enumerate(picture.counts):
        y = _y(count, most)
        if y != at:
            x = _LEFT + _PLOT_WIDTH * index / len(picture.counts)
            parts.append(f"H{x:g}V{y:g}")
            at = y
    return "".join(parts) + f"H{_LEFT + _PLOT_WIDTH}V{bottom}Z"


def _mark(picture: SitePicture, method: str, index: int, colour: int) -> Mark:
    ends = tuple(_x(picture, end) for end in picture.thresholds[method] if end != 0.0)
    top = _TOP + _STEP // 2 + _STEP * (index % COLOURS)  # each a step lower: equal ranges show
    path = "".join(f"M{x:g} {top}V{_TOP + _PLOT_HEIGHT}" for x in ends)
    return Mark(method, colour, method == picture.chosen, ends, top, path)


def _left_out(picture: SitePicture) -> tuple[tuple[float, float], ...]:
    if picture.chosen not in picture.thresholds:
        return ()
    first, last = (_x(picture, end) for end in picture.thresholds[picture.chosen])
    right = _LEFT + _PLOT_WIDTH
    spans = ((_LEFT, round(first - _LEFT, 1)), (last, round(right - last, 1)))
    return tuple(span for span in spans if span[1] > 0)


def _x_ticks(picture: SitePicture) -> tuple[tuple[float, float, str], ...]:
    """Both ends, and 0 where it is not too near to one of them."""
    ends = (
        (_x(picture, picture.low), picture.low, "start"),
        (float(_LEFT + _PLOT_WIDTH), picture.high, "end"),
    )
    zero = _x(picture, 0.0)
    inside = _LEFT + 50 < zero < _LEFT + _PLOT_WIDTH - 50
    return (*ends, (zero, 0.0, "middle")) if inside else ends


def _y_ticks(most: int) -> tuple[tuple[float, int], ...]:
    """Four powers of ten at most."""
    last = int(math.log10(most)) if most else 0
    step = last // 4 + 1
    return (
        tuple((_y(10**decade, most), decade) for decade in range(0, last + 1, step)) if most else ()
    )
