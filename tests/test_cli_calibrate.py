"""`qdq calibrate` as a user calls it. A wrong call: one text, exit code 2, nothing written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import qdq
from qdq.calibration.files import load_histograms
from qdq.cli import main

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 6 * 6, 3)
    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))

class Eager(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > -1e9 else -x)

def make(size, seed, value=None):
    x = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    if value is not None:
        x[0, 0, 0, 0] = value
    return x, torch.zeros(size, dtype=torch.long)

def batches(split, size): return [make(size, seed) for seed in range(5)]
def nan(split, size): return [make(size, 0), make(size, 1, float("nan"))]
def empty(split, size): return []
"""
NAME = "tests_cli_calibrate_nets"
DATA = ("--data", f"{NAME}:batches", "--batch-size", "3")
GIVEN = ("Net", "--weights", "w.safetensors")
RECORD = ("--shape", "1,1,8,8")
Call: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run it in a folder with a module of nets and data, and with weights of `Net`."""
    (tmp_path / f"{NAME}.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.delenv("QDQ_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    torch.manual_seed(5)
    save_file(net().state_dict(), tmp_path / "w.safetensors")

    def run(model: str, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", model if ":" in model else f"{NAME}:{model}", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def net() -> nn.Module:
    __import__(NAME)
    built: nn.Module = sys.modules[NAME].Net()
    return built.eval()


def calibrated(**options: object) -> tuple[nn.Module, object]:
    """The same in Python, and its report."""
    model = net()
    model.load_state_dict(load_file("w.safetensors"))
    qdq.insert(model, torch.zeros(1, 1, 8, 8))
    data = sys.modules[NAME].batches("train", 3)
    return model, qdq.calibrate(model, data, progress=False, **options)  # type: ignore[arg-type]


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {
        "__pycache__",
        f"{NAME}.py",
        "w.safetensors",
    }


def test_the_model_its_ranges_and_the_report_are_those_of_python(
    call: Call, tmp_path: Path
) -> None:
    places = ("--out", "o", "--ranges", "r", "--histograms", "h", "--json", "j")
    code, out, err = call(*GIVEN, *DATA, "--method", "percentile", *places)
    assert (code, err) == (0, "")
    assert left_in(tmp_path) == {"o", "r", "h", "j"}
    model, report = calibrated(method="percentile")
    loaded = net()
    qdq.load(loaded, "o")
    wanted = model.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(each, wanted[name]) for name, each in loaded.state_dict().items())
    ranges = load_file("r")
    for row in report.rows:  # type: ignore[attr-defined]
        assert (float(ranges[f"{row.site}.amin"]), float(ranges[f"{row.site}.amax"])) == (
            pytest.approx(row.amin),
            pytest.approx(row.amax),
        )
    assert json.loads((tmp_path / "j").read_text()) == report.to_dict()  # type: ignore[attr-defined]
    assert str(report) in out
    histograms, origin = load_histograms("h")
    assert {row.site for row in report.rows} == set(histograms)  # type: ignore[attr-defined]
    assert (origin.batches, origin.samples, origin.share) == (5, 15, (0, 1))


def test_every_site_is_shown_with_its_range_and_what_it_saw(call: Call) -> None:
    _, out, _ = call(*GIVEN, *DATA, "--method", "max", "--json", "j")
    _, report = calibrated(method="max")
    rows = [line.split() for line in out.splitlines()]
    for row in report.rows:  # type: ignore[attr-defined]
        ends = (row.amin, row.amax, row.seen_min, row.seen_max)
        assert [row.site, *(f"{end:.4g}" for end in ends), f"{row.values:,}"] in rows


@pytest.mark.parametrize("shares", [2, 3])
def test_shares_counted_apart_merge_into_the_model_of_one_pass(
    shares: int, call: Call, tmp_path: Path
) -> None:
    assert call(*GIVEN, *DATA, "--out", "whole")[0] == 0
    names = [f"{part}.hist" for part in range(shares)]
    for part, name in enumerate(names):
        code, _, err = call(*GIVEN, *DATA, "--share", f"{part}/{shares}", "--histograms", name)
        assert (code, err) == (0, "")
    code, out, err = call(
        *GIVEN, "--merge", *names[::-1], *RECORD, "--out", "merged", "--histograms", "all.hist"
    )
    assert (code, err) == (0, "")
    assert "from 5 batches" in out
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    _, origin = load_histograms("all.hist")
    assert (origin.batches, origin.samples) == (5, 15)


@pytest.mark.parametrize("record", [RECORD, DATA], ids=["shape", "data"])
def test_kept_histograms_give_the_ranges_of_another_method(
    record: tuple[str, ...], call: Call, tmp_path: Path
) -> None:
    assert call(*GIVEN, *DATA, "--histograms", "h")[0] == 0
    assert call(*GIVEN, "--merge", "h", "--method", "max", *record, "--out", "again")[0] == 0
    assert call(*GIVEN, *DATA, "--method", "max", "--out", "anew")[0] == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "anew").read_bytes()


def test_the_best_tier_is_that_of_python(call: Call, tmp_path: Path) -> None:
    code, _, err = call(*GIVEN, *DATA, "--tier", "best", "--json", "report.json")
    assert code == 0, err
    _, wanted = calibrated(method="mse", tier="best")
    assert json.loads((tmp_path / "report.json").read_text()) == wanted.to_dict()  # type: ignore[attr-defined]


def test_batches_are_counted_before_they_are_shared(call: Call) -> None:
    assert call(*GIVEN, *DATA, "--batches", "3", "--share", "0/2", "--histograms", "h")[0] == 0
    assert load_histograms("h")[1].batches == 2
    assert load_histograms("h")[1].share == (0, 2)


def test_images_are_normalized_and_ignored_layers_stay_float(call: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((4, 8, 8), 255, np.uint8))
    images = ("--data", "x.npy", "--mean", "0.5", "--std", "0.25")
    code, _, err = call(*GIVEN, *images, "--method", "max", "--ranges", "r", "--ignore", "fc")
    assert (code, err) == (0, "")
    ranges = load_file("r")
    assert float(ranges["conv.input.amax"]) == 2.0
    assert not any(name.startswith("fc") for name in ranges)


OUT = ("--out", "o")
WRONG: dict[str, tuple[tuple[str, ...], str, str]] = {
    "nowhere to write": (
        (*GIVEN, *DATA),
        "InputError: nothing says where to write",
        "pass --out FILE for the model, or --ranges, --histograms or --json",
    ),
    "no data": (
        (*GIVEN, *OUT),
        "InputError: nothing says what to calibrate with",
        "pass --data, or --merge and files of histograms",
    ),
    "nothing to merge": (
        (*GIVEN, *OUT, "--merge"),
        "InputError: --merge has no FILES",
        "qdq calibrate MODEL --merge a.hist b.hist",
    ),
    "files without --merge": (
        (*GIVEN, "a.hist", "b.hist", *DATA, *OUT),
        "InputError: FILES are read with --merge only: a.hist, b.hist",
        "pass --merge",
    ),
    "a shape and data": (
        (*GIVEN, *DATA, "--shape", "1,1,8,8", *OUT),
        "InputError: --shape says how to record a forward, and --data does",
        "leave --shape out",
    ),
    "a share past the last": (
        (*GIVEN, *DATA, "--share", "2/2", *OUT),
        "InputError: '2/2' is no share of the batches",
        "of two machines 0/2 and 1/2",
    ),
    "a share of words": (
        (*GIVEN, *DATA, "--share", "first", *OUT),
        "InputError: 'first' is no share of the batches",
        "write --share R/N",
    ),
    "a mean of words": (
        (*GIVEN, *DATA, "--mean", "0.5,half", *OUT),
        "InputError: --mean '0.5,half' is no list of numbers",
        "write numbers with commas",
    ),
    "a deviation that is no number": (
        (*GIVEN, *DATA, "--std", "nan", *OUT),
        "InputError: --std 'nan' is no list of numbers",
        "write numbers with commas",
    ),
    "an unknown method": (
        (*GIVEN, *DATA, "--method", "maximum", *OUT),
        "RegistryError: no calibration method 'maximum'",
        "mse",
    ),
    "an unknown target": (
        (*GIVEN, *DATA, "--target", "tensort", *OUT),
        "RegistryError: no target 'tensort'",
        "did you mean 'tensorrt'?",
    ),
    "batches of no rows": (
        (*GIVEN, *DATA, "--batch-size", "0", *OUT),
        "InputError: batches of 0 rows",
        "pass batch_size=1",
    ),
    "no batches": (
        (*GIVEN, *DATA, "--batches", "0", *OUT),
        "InputError: batches=0 reads nothing",
        "pass 1 or more",
    ),
    "NaN in the data": (
        (*GIVEN, "--data", f"{NAME}:nan", *OUT),
        "InputError: batch 1 holds NaN or infinity",
        "a log of 0",
    ),
    "empty data": (
        (*GIVEN, "--data", f"{NAME}:empty", *OUT),
        "InputError: the data holds no batch",
        "at least one",
    ),
    "a pattern that fits nothing": (
        (*GIVEN, *DATA, "--ignore", "convv", *OUT),
        "PolicyError: ignore pattern 'convv' fits nothing",
        "there is: conv, fc",
    ),
    "a file that is not there": (
        (*GIVEN, "--merge", "none.hist", *OUT),
        "InputError: there is no such file\n  at:  none.hist",
        "check the path",
    ),
    "a file that is none": (
        (*GIVEN, "--merge", "w.safetensors", *OUT),
        "InputError: this file holds no histograms of qdq\n  at:  w.safetensors",
        "qdq calibrate --histograms FILE",
    ),
    "a forward that must be seen": (
        ("Eager", "--merge", "none.hist", *OUT),
        "InputError: torch.fx cannot follow this model's forward",
        "pass --shape 1,3,224,224 or --data",
    ),
    "repairs of what others counted": (
        (*GIVEN, "--merge", "none.hist", "--tier", "best", *OUT),
        "InputError: --tier and --repair need all the data, and here is a share or none",
        "repair with --data alone, on one machine",
    ),
    "repairs on a share": (
        (*GIVEN, *DATA, "--share", "0/2", "--repair", "bias", *OUT),
        "InputError: --tier and --repair need all the data, and here is a share or none",
        "repair with --data alone, on one machine",
    ),
    "counts of weights that nobody else has": (
        (*GIVEN, *DATA, "--repair", "equalization", "--histograms", "h"),
        "InputError: --histograms would be of scaled weights that no other run has",
        "leave --histograms or --repair equalization and migration out",
    ),
    "a tier that is none": (
        (*GIVEN, *DATA, "--tier", "bets", *OUT),
        "RegistryError: no tier 'bets'",
        "did you mean 'best'",
    ),
    "no folder to write to": (
        (*GIVEN, *DATA, "--out", "none/o"),
        "InputError: cannot write here: No such file or directory\n  at:  none/o",
        "name a file in a folder that exists",
    ),
    "no folder for the last of several": (
        (*GIVEN, *DATA, *OUT, "--json", "none/j"),
        "InputError: cannot write here: No such file or directory\n  at:  none/j",
        "name a file in a folder that exists",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_ends_in_one_clear_text_and_nothing_written(
    case: str, call: Call, tmp_path: Path
) -> None:
    arguments, said, fix = WRONG[case]
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert fix in err.split("fix: ")[1]
    assert "Traceback" not in err
    assert err.count("\n") <= 3
    assert left_in(tmp_path) == set()


def test_histograms_of_other_weights_are_refused_by_name(call: Call, tmp_path: Path) -> None:
    assert call(*GIVEN, *DATA, "--histograms", "h")[0] == 0
    code, _, err = call("Net", "--merge", "h", "--out", "o")  # without --weights: random ones
    assert (code, left_in(tmp_path)) == (2, {"h"})
    assert err == (
        "InputError: the histograms are not of this model: they differ in the weights conv.bias, "
        "conv.weight, fc.bias, fc.weight\n"
        "  at:  h\n"
        "  fix: pass the --weights, --ignore and --only that they were counted with\n"
    )


def test_a_call_that_fails_leaves_the_files_of_the_one_before(call: Call, tmp_path: Path) -> None:
    assert call(*GIVEN, *DATA, "--out", "o", "--histograms", "h")[0] == 0
    before = {name: (tmp_path / name).read_bytes() for name in left_in(tmp_path)}
    assert call(*GIVEN, "--data", f"{NAME}:nan", "--out", "o", "--histograms", "h")[0] == 2
    assert {name: (tmp_path / name).read_bytes() for name in left_in(tmp_path)} == before


def test_help_teaches_and_its_first_example_runs(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra 'demo'")
    code, out, _ = call("models.lenet:lenet_digits", "--help")
    assert code == 0
    for words in ("--share 0/2", "--merge a.hist b.hist", "Examples", "qdq.load", "bit for bit"):
        assert words in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    example = next(line for line in lines if line.startswith("qdq calibrate models.lenet"))
    code, out, err = call(*example.split()[2:])
    assert (code, err) == (0, "")
    assert left_in(tmp_path) == {"lenet.safetensors"}
