import math
import re
from dataclasses import replace

import pytest
from report_examples import drawn

from qdq.records.pictures import SitePicture
from qdq.records.ranking import SensitivityReport, SensitivityRow
from qdq.report.charts import BARS_WIDTH, MOST_BARS, bar_chart, colours, shorten, site_chart


def ranking(*scores: float) -> SensitivityReport:
    rows = tuple(SensitivityRow(f"l{i}", score, 9.0, None) for i, score in enumerate(scores))
    return SensitivityReport("one_on", "", None, 4, rows)


def test_a_bar_is_as_long_as_its_score() -> None:
    chart = bar_chart(ranking(4.0, 1.0, 0.0))
    longest, quarter, none = (bar.width for bar in chart.bars)
    assert quarter == pytest.approx(longest / 4, abs=0.1)
    assert none == 0
    assert all(bar.x == chart.zero for bar in chart.bars)
    assert chart.zero + longest < chart.columns[0]


def test_a_negative_score_goes_left_of_zero() -> None:
    chart = bar_chart(ranking(3.0, -1.0))
    gain = chart.bars[1]
    assert gain.x + gain.width == pytest.approx(chart.zero, abs=0.1)
    assert gain.x >= chart.names


@pytest.mark.parametrize("score", [math.inf, -math.inf, math.nan, 0.0])
def test_a_score_without_a_length_is_drawn_as_none(score: float) -> None:
    assert [bar.width for bar in bar_chart(ranking(score)).bars] == [0]


def test_a_long_ranking_is_cut_and_long_names_keep_both_ends() -> None:
    assert len(bar_chart(ranking(*[1.0] * 99)).bars) == MOST_BARS
    assert bar_chart(ranking(1.0)).width == BARS_WIDTH
    short = shorten("backbone.layer1.0.conv1.projection", 20)
    assert len(short) == 20
    assert short.startswith("backb")
    assert short.endswith("projection")
    assert shorten("conv", 20) == "conv"


def flat(**changes: object) -> SitePicture:
    start = SitePicture("s", -1.0, 3.0, (1, 0, 10, 10), {"max": (-1.0, 3.0)}, {"max": 0.0}, "max")
    return replace(start, **changes)  # type: ignore[arg-type]


def test_an_outline_steps_with_the_counts_and_joins_equal_ones() -> None:
    chart = site_chart(flat(), {"max": 0})
    heights = [float(y) for y in re.findall(r"V([\d.]+)", chart.outline)]
    assert len(heights) == 4  # up, down, up, and down at the end: the last two bins are one step
    assert heights[1] == heights[3] == chart.bottom
    assert heights[2] == chart.top
    share = math.log(2) / math.log(11)
    assert chart.bottom - heights[0] == pytest.approx(share * (chart.bottom - chart.top), abs=0.1)


def test_marks_stand_at_their_values_and_the_chosen_one_lies_on_top() -> None:
    ranges = {"mse": (0.0, 1.0), "max": (-1.0, 3.0)}
    chart = site_chart(flat(thresholds=ranges, chosen="mse"), {"mse": 1, "max": 0})
    assert [mark.method for mark in chart.marks] == ["max", "mse"]
    assert chart.marks[0].ends == (chart.left, chart.right)
    middle = (chart.left + chart.right) / 2
    assert chart.marks[1].ends == (middle,)  # the end at 0 of a one-sided range is not marked
    quarter = (chart.right - chart.left) / 4
    assert chart.clipped == ((chart.left, quarter), (middle, 2 * quarter))


def test_a_chosen_method_without_a_range_and_an_empty_span_are_drawn() -> None:
    assert site_chart(flat(chosen="other"), {"max": 0}).clipped == ()
    chart = site_chart(flat(low=0.0, high=0.0, thresholds={"max": (0.0, 0.0)}), {"max": 0})
    assert chart.marks[0].ends == ()
    assert site_chart(flat(counts=()), {"max": 0}).y_ticks == ()


@pytest.mark.parametrize("most", [1, 9, 10, 5_000, 10**9])
def test_a_few_decades_are_named(most: int) -> None:
    ticks = site_chart(flat(counts=(most,)), {"max": 0}).y_ticks
    assert 1 <= len(ticks) <= 4
    assert ticks[0][1] == 0
    assert all(10**decade <= most for _, decade in ticks)


def test_a_method_has_one_colour_on_the_whole_page() -> None:
    first, second = drawn("a"), drawn("b", "own")
    assert colours([first, second])["own"] == len(first.thresholds)
    assert list(colours([first])) == list(first.thresholds)
