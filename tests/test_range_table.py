"""The table of range methods: every row once, and its figures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("QDQ_DATA") or ROOT.parent / "shared" / "data")
METHODS = ("max", "percentile", "mse")
TARGETS = ("onnxruntime", "tensorrt")

real = pytest.mark.skipif(
    not (DATA / "cifar10/weights/resnet20.safetensors").is_file(),
    reason="needs the real data: set QDQ_DATA to it",
)


def run(*options: str, data: str = str(DATA)) -> subprocess.CompletedProcess[str]:
    """The script, on ResNet-20."""
    environment = {name: each for name, each in os.environ.items() if name != "QDQ_DATA"}
    command = [sys.executable, str(ROOT / "scripts/range_table.py"), "--model", "resnet20"]
    return subprocess.run(
        [*command, *options],
        env=environment | ({"QDQ_DATA": data} if data else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def table(printed: str) -> list[dict[str, Any]]:
    """The rows of a Markdown table, percentages as shares."""
    lines = [[each.strip() for each in line.split("|")[1:-1]] for line in printed.splitlines()]
    return [
        {
            "model": model,
            "images": int(images),
            "method": method,
            "target": target,
            "top1": float(top1.removesuffix("%")) / 100,
            "sqnr_db": float(far) if far else None,
        }
        for model, images, method, target, top1, far in lines[2:]
    ]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """What the script prints about the first 1,000 images."""
    ended = run("--images", "1000", "--methods", *METHODS)
    assert ended.returncode == 0, ended.stderr
    return table(ended.stdout)


def decibels(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["method"], row["target"]): row["sqnr_db"] for row in rows[1:]}


@real
@pytest.mark.slow
def test_there_is_the_float_net_and_then_every_method_for_every_target(
    rows: list[dict[str, Any]],
) -> None:
    named = [(row["model"], row["images"], row["method"], row["target"]) for row in rows]
    ways = [
        *((method, target) for method in METHODS for target in TARGETS),
        ("mse, not shared", "tensorrt"),
        *(("mse, tier best", target) for target in TARGETS),
    ]
    assert named == [("resnet20", 1000, *each) for each in [("float", ""), *ways]]
    assert rows[0]["sqnr_db"] is None
    assert 0.79 < rows[0]["top1"] < 0.83  # 81.03 % of all 10,000
    assert all(abs(row["top1"] - rows[0]["top1"]) < 0.02 for row in rows)


@real
@pytest.mark.slow
def test_least_squared_error_is_good_for_29_decibels_and_beats_the_full_range(
    rows: list[dict[str, Any]],
) -> None:
    found = decibels(rows)
    assert found["mse", "onnxruntime"] >= 29.0
    for target in TARGETS:
        assert found["mse", target] > found["max", target] + 0.5


@real
@pytest.mark.slow
def test_repaired_weights_gain_half_a_decibel(rows: list[dict[str, Any]]) -> None:
    found = decibels(rows)
    assert found["mse, tier best", "onnxruntime"] > found["mse", "onnxruntime"] + 0.5


@real
@pytest.mark.slow
def test_codes_of_one_sign_gain_decibels_over_codes_of_both(rows: list[dict[str, Any]]) -> None:
    found = decibels(rows)
    for method in METHODS:  # behind a ReLU int8 uses half its codes: a step twice as wide
        assert 1 < found[method, "onnxruntime"] - found[method, "tensorrt"] < 6.1


@real
@pytest.mark.slow
def test_ranges_that_suit_symmetric_codes_alone_gain_on_tensorrt(
    rows: list[dict[str, Any]],
) -> None:
    found = decibels(rows)
    assert found["mse, not shared", "tensorrt"] > found["mse", "tensorrt"]


def test_without_data_it_says_what_to_set() -> None:
    ended = run("--images", "1", data="")
    assert ended.returncode == 1
    assert ended.stderr == "set QDQ_DATA to the folder that holds cifar10 and imagenet\n"
    assert "Traceback" not in ended.stderr
