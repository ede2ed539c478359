"""Several files of histograms as one: as if one pass had counted all their batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.calibration.files import (
    Histograms,
    load_merged,
    merged,
    save_histograms,
)
from qdq.calibration.origins import Origin
from qdq.errors import InputError
from qdq.numerics.histogram import Histogram, from_values

ORIGIN = Origin(sites=("a.input", "b.input"), weights={"a.weight": "00"}, batches=3, samples=24)
VALUES = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30
)


def histogram(*values: float) -> Histogram:
    return from_values(np.asarray(values, np.float32))


def plain(histograms: Histograms) -> dict[str, Any]:
    return {
        site: (hist.bins.tolist(), hist.counts.tolist(), hist.amin, hist.amax)
        for site, hist in histograms.items()
    }


TWO = {"a.input": histogram(-1.5, 0.0, 2.0, 2.0), "b.input": histogram(3.0, 1e-30)}


@given(values=st.lists(VALUES, min_size=1, max_size=4), data=st.data())
@settings(max_examples=40, deadline=None)
def test_parts_in_any_order_make_the_histogram_of_all_their_values(
    values: list[list[float]], data: st.DataObject
) -> None:
    parts = [
        (str(index), {"a.input": histogram(*each)}, ORIGIN) for index, each in enumerate(values)
    ]
    found, origin = merged(data.draw(st.permutations(parts)))
    assert plain(found) == plain({"a.input": histogram(*(v for each in values for v in each))})
    assert (origin.batches, origin.samples) == (3 * len(values), 24 * len(values))


def test_sites_that_one_file_lacks_come_from_the_others(tmp_path: Path) -> None:
    save_histograms({"a.input": TWO["a.input"]}, tmp_path / "1", ORIGIN)
    save_histograms({"b.input": TWO["b.input"]}, tmp_path / "2", ORIGIN)
    save_histograms({}, tmp_path / "3", replace(ORIGIN, batches=0, samples=0))
    found, origin = load_merged([tmp_path / name for name in "123"])
    assert plain(found) == plain(TWO)
    assert (origin.batches, origin.samples, origin.share) == (6, 48, None)


def test_a_site_dropped_in_one_part_is_dropped_in_all() -> None:
    dropping = replace(ORIGIN, dropped=("b.input",))
    for parts in (
        (("1", TWO, ORIGIN), ("2", {}, dropping)),
        (("2", {}, dropping), ("1", TWO, ORIGIN)),
    ):
        found, origin = merged(parts)
        assert list(found) == ["a.input"]
        assert origin.dropped == ("b.input",)


def test_one_file_alone_stays_what_it_is(tmp_path: Path) -> None:
    save_histograms(TWO, tmp_path / "h", replace(ORIGIN, share=(1, 4)))
    found, origin = load_merged([tmp_path / "h"])
    assert plain(found) == plain(TWO)
    assert origin.share == (1, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": ("a.input",)}, "only the first has the sites b.input"),
        ({"sites": (*ORIGIN.sites, "c.input")}, "only the second has the sites c.input"),
        ({"weights": {}}, "only the first has the weights a.weight"),
        (
            {"weights": {"a.weight": "00"} | {f"b{n}": "1" for n in range(6)}},
            "only the second has the weights b0, b1, b2, b3 and 2 more",
        ),
        ({"weights": {"a.weight": "01"}}, "they differ in the weights a.weight"),
    ],
)
def test_files_of_different_models_are_refused_with_what_differs(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    save_histograms({}, tmp_path / "1", ORIGIN)
    save_histograms({}, tmp_path / "2", replace(ORIGIN, **change))
    with pytest.raises(InputError) as caught:
        load_merged([tmp_path / "1", tmp_path / "2"])
    assert str(caught.value) == (
        f"these histograms are of another model than the first: {said}\n"
        f"  at:  {tmp_path / '2'}\n"
        "  fix: merge what one model counted: same factory, weights, ignore= and only="
    )


def test_counts_never_wrap_around(tmp_path: Path) -> None:
    most = Histogram(np.array([0]), np.array([2**53]), 0.0, 0.0)
    save_histograms({"a.input": most}, tmp_path / "h", ORIGIN)
    with pytest.raises(InputError, match=r"more values than can be counted at 'a\.input'"):
        load_merged([tmp_path / "h", tmp_path / "h"])


def test_no_files_are_refused() -> None:
    with pytest.raises(InputError, match="there are no files to merge"):
        load_merged([])
