"""The histograms' file: what comes back, which bytes, and what is refused and how."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from qdq.calibration.files import Histograms, load_histograms, save_histograms
from qdq.calibration.origins import Origin
from qdq.errors import CalibrationError, InputError
from qdq.numerics.histogram import BINS, Histogram, from_values
from qdq.version import version

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


@given(first=VALUES, second=VALUES)
@settings(max_examples=50, deadline=None)
def test_histograms_and_origin_come_back_as_they_were(
    first: list[float], second: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("files") / "h.hist"
    given_ = {"a.input": histogram(*first), "b.input": histogram(*second)}
    save_histograms(given_, path, ORIGIN)
    found, origin = load_histograms(path)
    assert plain(found) == plain(given_)
    assert origin == ORIGIN
    assert origin.version == version()


def test_extreme_values_come_back(tmp_path: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    hists = {"a.input": histogram(-largest, -0.0, 0.0, 1e-45, largest), "b.input": histogram(-0.0)}
    save_histograms(hists, tmp_path / "h", ORIGIN)
    assert plain(load_histograms(tmp_path / "h")[0]) == plain(hists)


def test_equal_histograms_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    save_histograms(TWO, tmp_path / "one", ORIGIN)
    turned = dict(reversed(TWO.items()))
    save_histograms(turned, tmp_path / "two", replace(ORIGIN, weights=dict(ORIGIN.weights)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_site_counted_per_channel_has_a_histogram_for_each(tmp_path: Path) -> None:
    channels = {f"a.input[{index}]": histogram(float(index + 1)) for index in range(12)}
    save_histograms(channels, tmp_path / "h", ORIGIN)
    assert plain(load_histograms(tmp_path / "h")[0]) == plain(channels)


def test_no_histograms_at_all_can_be_kept_too(tmp_path: Path) -> None:
    save_histograms({}, tmp_path / "h", ORIGIN)
    assert load_histograms(tmp_path / "h") == ({}, ORIGIN)


def test_what_load_would_refuse_is_not_written(tmp_path: Path) -> None:
    broken = Histogram(np.array([5]), np.array([-1]), 0.0, 1.0)
    with pytest.raises(CalibrationError) as caught:
        save_histograms({"a.input": broken}, tmp_path / "h", ORIGIN)
    assert str(caught.value) == (
        "this histogram cannot be saved: its counts are not whole numbers from 1 that add up to "
        "2^53 at most\n"
        "  at:  a.input\n"
        "  fix: count with qdq.calibrate, or make it with qdq.numerics.histogram"
    )
    assert list(tmp_path.iterdir()) == []


# A stranger's file: every way to be wrong, one at a time.

Tensors = dict[str, Tensor]
LAST = BINS - 1


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def ends(low: float, high: float) -> Tensor:
    return torch.tensor([low, high], dtype=torch.float64)


BROKEN: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "no bins": ({"a.input.bins": None}, "its bins are missing"),
    "no counts": ({"a.input.counts": None}, "its counts are missing"),
    "no ends": ({"a.input.ends": None}, "its ends are missing"),
    "float bins": ({"a.input.bins": torch.ones(3)}, "its bins are torch.float32 of shape (3,)"),
    "narrow counts": (
        {"a.input.counts": torch.ones(3, dtype=torch.int32)},
        "its counts are torch.int32 of shape (3,)",
    ),
    "half ends": (
        {"a.input.ends": torch.zeros(2, dtype=torch.bfloat16)},
        "its ends are torch.bfloat16 of shape (2,)",
    ),
    "square bins": ({"a.input.bins": ints(1).reshape(1, 1)}, "torch.int64 of shape (1, 1)"),
    "more counts": ({"a.input.counts": ints(1, 1, 1, 1)}, "it has 3 bins, 4 counts and 2 ends"),
    "three ends": (
        {"a.input.ends": torch.zeros(3, dtype=torch.float64)},
        "it has 3 bins, 3 counts and 3 ends",
    ),
    "empty": ({"a.input.bins": ints(), "a.input.counts": ints()}, "it has 0 bins"),
    "too many": (
        {
            "a.input.bins": torch.arange(BINS + 1),
            "a.input.counts": torch.ones(BINS + 1, dtype=torch.int64),
        },
        f"it has {BINS + 1} bins",
    ),
    "negative bin": ({"a.input.bins": ints(-1, 0, 9)}, f"do not ascend from 0 to {LAST}"),
    "bin past the last": ({"a.input.bins": ints(0, 9, BINS)}, f"do not ascend from 0 to {LAST}"),
    "bins falling": ({"a.input.bins": ints(9, 3, 10)}, f"do not ascend from 0 to {LAST}"),
    "a bin twice": ({"a.input.bins": ints(3, 3, 10)}, f"do not ascend from 0 to {LAST}"),
    "bins so far apart that they wrap": (
        {"a.input.bins": ints(0, -(2**63), 2**63 - 1)},
        f"do not ascend from 0 to {LAST}",
    ),
    "infinity": ({"a.input.bins": ints(0, 3, 65280)}, "a bin of infinity or NaN"),
    "negative NaN": ({"a.input.bins": ints(0, 3, LAST)}, "a bin of infinity or NaN"),
    "no count": ({"a.input.counts": ints(1, 0, 1)}, "whole numbers from 1"),
    "negative count": ({"a.input.counts": ints(1, -5, 1)}, "whole numbers from 1"),
    "counts that overflow": ({"a.input.counts": ints(2**62, 2**62, 2**62)}, "2^53 at most"),
    "NaN end": ({"a.input.ends": ends(float("nan"), 2.0)}, "its ends nan and 2 do not lie"),
    "infinite end": ({"a.input.ends": ends(-1.5, float("inf"))}, "its ends -1.5 and inf do not"),
    "too low": ({"a.input.ends": ends(-9.0, 2.0)}, "its ends -9 and 2 do not lie in its outer"),
    "too high": ({"a.input.ends": ends(-1.5, 2.1)}, "its ends -1.5 and 2.1 do not lie in its"),
    "upside down": ({"a.input.ends": ends(2.0, -1.5)}, "its ends 2 and -1.5 do not lie in"),
    "another site": (
        {"c.input.bins": ints(1)},
        "the model that was counted has no such site",
    ),
    "a channel of another site": (
        {"c.input[1].bins": ints(1)},
        "the model that was counted has no such site",
    ),
}


def tampered(path: Path, changes: dict[str, Tensor | None]) -> None:
    save_histograms({"a.input": TWO["a.input"]}, path, ORIGIN)
    kept: dict[str, Tensor | None] = load_file(path) | changes
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    tensors = {name: each for name, each in kept.items() if each is not None}
    save_file(tensors, path, header["__metadata__"])


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_contradicts_itself_is_refused_by_file_and_site(
    case: str, tmp_path: Path
) -> None:
    changes, flaw = BROKEN[case]
    tampered(tmp_path / "h", changes)
    site = "c.input" if "another site" in case else "a.input"
    with pytest.raises(InputError) as caught:
        load_histograms(tmp_path / "h")
    assert caught.value.what.startswith(f"the histogram of '{site}")
    assert "' is broken: " in caught.value.what
    assert flaw in caught.value.what
    assert caught.value.at == str(tmp_path / "h")
    assert caught.value.fix == "the file was damaged or made by hand: count again"


def test_ends_of_one_bin_must_not_be_upside_down(tmp_path: Path) -> None:
    one = {"a.input.bins": ints(0x3F80_0000 >> 15), "a.input.counts": ints(2)}
    tampered(tmp_path / "good", {**one, "a.input.ends": ends(1.0, 1.001)})
    assert load_histograms(tmp_path / "good")[0]["a.input"].amax == 1.001
    tampered(tmp_path / "bad", {**one, "a.input.ends": ends(1.001, 1.0)})
    with pytest.raises(InputError, match=r"its ends 1\.001 and 1 do not lie in its outer bins"):
        load_histograms(tmp_path / "bad")


def test_a_tensor_that_belongs_to_no_histogram_is_refused(tmp_path: Path) -> None:
    tampered(tmp_path / "h", {"a.input.extra": ints(1)})
    with pytest.raises(
        InputError, match=r"a tensor 'a\.input\.extra' that belongs to no histogram"
    ):
        load_histograms(tmp_path / "h")


def rewrite_origin(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        said = {"sites": ["a.input"], "weights": {}}
        change(said)
        save_file({"a": torch.ones(1)}, path, {"qdq.histograms": json.dumps(said)})

    return write


def of_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


STRANGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing there": (lambda _: None, "there is no such file"),
    "a folder": (lambda path: path.mkdir(), "there is no such file"),
    "no safetensors": (of_bytes(b"hello"), "this is no safetensors file"),
    "an empty file": (of_bytes(b""), "this is no safetensors file"),
    "a header that never ends": (of_bytes(b"\xff" * 64), "this is no safetensors file"),
    "a header that claims more": (
        of_bytes(
            (60).to_bytes(8, "little")
            + b'{"a.bins":{"dtype":"I64","shape":[99],"data_offsets":[0,792]}}'[:60].ljust(60)
        ),
        "this is no safetensors file",
    ),
    "weights": (
        lambda path: save_file({"a.weight": torch.ones(2)}, path),
        "this file holds no histograms of qdq",
    ),
    "an origin that is no JSON": (
        lambda path: save_file({"a": torch.ones(1)}, path, {"qdq.histograms": "{"}),
        "this file holds no histograms of qdq",
    ),
    "an origin without sites": (
        rewrite_origin(lambda said: said.pop("sites")),
        "this file holds no histograms of qdq",
    ),
    "batches below 0": (
        rewrite_origin(lambda said: said.update(batches=-1)),
        "this file holds no histograms of qdq",
    ),
    "samples that are words": (
        rewrite_origin(lambda said: said.update(samples="many")),
        "this file holds no histograms of qdq",
    ),
    "a share of one number": (
        rewrite_origin(lambda said: said.update(share=[1])),
        "this file holds no histograms of qdq",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_no_file_of_histograms_is_refused(case: str, tmp_path: Path) -> None:
    write, what = STRANGE[case]
    write(tmp_path / "h")
    with pytest.raises(InputError) as caught:
        load_histograms(tmp_path / "h")
    assert caught.value.what.startswith(what)
    assert caught.value.at == str(tmp_path / "h")
    assert caught.value.fix


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "h").open("wb") as file:
        file.truncate((4 << 30) + 1)  # a hole: it takes no space
    with pytest.raises(InputError, match="a file of more than 4 GiB"):
        load_histograms(tmp_path / "h")


def test_nothing_is_left_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write here: No such file or directory"):
        save_histograms(TWO, tmp_path / "none" / "h", ORIGIN)
    assert list(tmp_path.iterdir()) == []
