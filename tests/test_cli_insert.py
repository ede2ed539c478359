"""`qdq insert` as a user calls it. A wrong call: one clear text, exit code 2, nothing written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import qdq
from qdq.cli import main
from qdq.insertion.placing import insertion_of
from qdq.records.decisions import InsertReport

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
        return super().forward(x if x.sum() > 0 else -x)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(5, 2)
    def forward(self, x, y):
        return self.left(x) + self.right(y)

class Training(Net):
    def eval(self):
        return self

def gives_a_list():
    return []

def fails():
    raise RuntimeError("boom")

not_callable = 3

def batches(split, size): return [(torch.zeros(size, 1, 8, 8), torch.zeros(size))]
def empty(split, size): return []
def pairs(split, size): return [((torch.zeros(size, 3), torch.zeros(size, 5)), torch.zeros(size))]
"""
NAME = "tests_cli_insert_nets"
DRY = ("--shape", "1,1,8,8", "--dry-run")
OUT = ("--shape", "1,1,8,8", "--out", "net.safetensors", "--json", "net.json")
Call: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    (tmp_path / f"{NAME}.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.delenv("QDQ_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(model: str, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["insert", model if ":" in model else f"{NAME}:{model}", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__", f"{NAME}.py"}


def net(name: str = "Net") -> nn.Module:
    built: nn.Module = getattr(sys.modules[NAME], name)()
    return built.eval()


def rows(out: str) -> list[str]:
    """The lines of the table, one blank between words."""
    return [" ".join(line.split()) for line in out.splitlines()]


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_dry_run_shows_every_decision_with_its_reason_and_writes_nothing(
    target: str, call: Call, tmp_path: Path
) -> None:
    code, out, err = call("Net", *DRY, "--target", target)
    assert (code, err) == (0, "")
    report = qdq.insert(net(), torch.zeros(1, 1, 8, 8), target=target)
    assert len(report.rows) == 7
    assert {f"{row.name} {row.action} {row.why}" for row in report.rows} <= set(rows(out))
    assert f"{target}: {len(report.select('quantize'))} sites quantize" in out
    assert left_in(tmp_path) == set()


def test_the_model_and_its_decisions_are_written(call: Call, tmp_path: Path) -> None:
    code, out, err = call("Net", *OUT, "--target", "onnxruntime")
    assert (code, err) == (0, "")
    assert left_in(tmp_path) == {"net.safetensors", "net.json"}
    loaded = net()
    qdq.load(loaded, "net.safetensors")
    assert insertion_of(loaded).target.name == "onnxruntime"
    written = json.loads((tmp_path / "net.json").read_text("utf-8"))
    del written["counts"]
    report = InsertReport.from_dict(written)
    on = {site for site, quantizer in qdq.quantizers(loaded).items() if quantizer.on}
    assert on == {row.name for row in report.select("quantize")} != set()
    assert all(f"{row.name} {row.action} {row.why}" in rows(out) for row in report.rows)


def test_the_weights_of_the_file_are_in_what_is_written(call: Call, tmp_path: Path) -> None:
    call("Net", *DRY)  # imports the module
    torch.manual_seed(3)
    given = net().state_dict()
    save_file(given, tmp_path / "w.safetensors")
    assert call("Net", "--weights", "w.safetensors", *OUT)[0] == 0
    assert torch.equal(load_file("net.safetensors")["fc.weight"], given["fc.weight"])


def test_a_dry_run_writes_the_decisions_alone(call: Call, tmp_path: Path) -> None:
    assert call("Net", *OUT, "--dry-run")[0] == 0
    assert left_in(tmp_path) == {"net.json"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("Net", "--data", f"{NAME}:batches"), "conv.input quantize"),
        (("Net",), "conv.input quantize"),
        (("Eager", "--shape", "1,1,8,8"), "conv.input quantize"),
        (("Two", "--shape", "1,3", "--shape", "1,5"), "right.input quantize"),
        (("Two", "--data", f"{NAME}:pairs"), "right.input quantize"),
    ],
)
def test_a_forward_is_recorded_from_shapes_or_data_or_traced(
    arguments: tuple[str, ...], expected: str, call: Call
) -> None:
    code, out, err = call(*arguments, "--dry-run")
    assert (code, err) == (0, "")
    assert any(row.startswith(expected) for row in rows(out))
    assert "no forward was recorded" not in out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--ignore", "conv"), "conv skip ignored by 'conv'"),
        (("--ignore", "nor*", "--ignore", "re:^c"), "conv skip ignored by 're:^c'"),
        (("--only", "fc"), "conv skip only= does not name it"),
    ],
)
def test_ignore_and_only_leave_layers_float(
    arguments: tuple[str, ...], why: str, call: Call
) -> None:
    code, out, err = call("Net", *DRY, *arguments)
    assert (code, err) == (0, "")
    assert why in rows(out)
    assert any(row.startswith("fc.input quantize") for row in rows(out))
    assert not any(row.startswith("conv.input") for row in rows(out))


WRONG: dict[str, tuple[tuple[str, ...], str, str]] = {
    "nowhere to write": (
        ("Net", "--shape", "1,1,8,8"),
        "InputError: nothing says where to write the model",
        "pass --out FILE, or --dry-run to look",
    ),
    "no factory": (
        ("os.path:", *OUT),
        "InputError: model factory 'os.path:' does not name a function",
        "write package.module:function",
    ),
    "a factory that is not there": (
        ("Nett", *OUT),
        f"InputError: model factory '{NAME}:Nett' does not import: AttributeError",
        "run from the folder that holds the module",
    ),
    "a factory that cannot be called": (
        ("not_callable", *OUT),
        f"InputError: model factory '{NAME}:not_callable' is a int, which cannot be called",
        "name a function or a class",
    ),
    "a factory of something else": (
        ("gives_a_list", *OUT),
        f"InputError: model factory '{NAME}:gives_a_list' gave a list",
        "let it return a torch.nn.Module",
    ),
    "a factory that fails": (
        ("fails", *OUT),
        f"InputError: model factory '{NAME}:fails' failed: RuntimeError: boom",
        "call it by itself",
    ),
    "weights that are not there": (
        ("Net", *OUT, "--weights", "none.safetensors"),
        "InputError: there is no such file\n  at:  none.safetensors",
        "check the path",
    ),
    "weights that are none": (
        ("Net", *OUT, "--weights", f"{NAME}.py"),
        "InputError: this is no safetensors file",
        "safetensors.torch.save_file",
    ),
    "an unknown target": (
        ("Net", *OUT, "--target", "tensort"),
        "RegistryError: no target 'tensort'",
        "did you mean 'tensorrt'?",
    ),
    "no shape": (
        ("Net", "--shape", "1,one,8,8", "--out", "o.safetensors"),
        "InputError: '1,one,8,8' is no shape of an input",
        "write whole numbers from 1, with commas",
    ),
    "a shape and data": (
        ("Net", *OUT, "--data", "digits"),
        "InputError: --shape and --data both say what to call the model with",
        "pass one",
    ),
    "a shape the model does not take": (
        ("Net", "--shape", "1,3,8,8", "--out", "o.safetensors"),
        "InputError: the model does not take inputs of shape (1, 3, 8, 8)",
        "as the float model takes them",
    ),
    "data that is not there": (
        ("Net", "--data", "none.npz", "--out", "o.safetensors"),
        "InputError: there is no such file\n  at:  none.npz",
        "check --data",
    ),
    "a kind of data that is not there": (
        ("Net", "--data", "mnist", "--out", "o.safetensors"),
        "InputError: nothing says where the data is",
        "set QDQ_DATA",
    ),
    "no data": (
        ("Net", "--data", f"{NAME}:empty", "--out", "o.safetensors"),
        "InputError: the data holds no batch",
        "at least one",
    ),
    "a forward that must be seen": (
        ("Eager", "--out", "o.safetensors"),
        "InputError: torch.fx cannot follow this model's forward\n  at:  Eager",
        "pass --shape 1,3,224,224 or --data, so that one forward can be recorded",
    ),
    "training mode": (
        ("Training", *OUT),
        "StepError: insert needs the model in eval mode",
        "call model.eval() first",
    ),
    "a pattern that fits nothing": (
        ("Net", *OUT, "--ignore", "convv"),
        "PolicyError: ignore pattern 'convv' fits nothing",
        "there is: conv, fc",
    ),
    "a broken pattern": (
        ("Net", *OUT, "--only", "re:("),
        "PolicyError: only pattern 're:(' is no regular expression",
        "as Python's re does",
    ),
    "half a from-to": (
        ("Net", *OUT, "--ignore", "conv->"),
        "PolicyError: ignore pattern 'conv->' has an arrow and not two ends",
        "write 'layer1->layer3'",
    ),
    "everything ignored": (
        ("Net", *OUT, "--ignore", "*"),
        "PolicyError: nothing is left to quantize",
        "replaces layers of exactly these types: ",
    ),
    "no folder to write to": (
        ("Net", "--shape", "1,1,8,8", "--out", "none/net.safetensors"),
        "InputError: cannot write here: No such file or directory\n  at:  none/net.safetensors",
        "name a file in a folder that exists",
    ),
    "a folder to write to": (
        ("Net", "--shape", "1,1,8,8", "--out", "."),
        "InputError: cannot write here: it is a folder",
        "name a file in it",
    ),
    "no folder for the decisions": (
        ("Net", "--shape", "1,1,8,8", "--out", "o.safetensors", "--json", "none/o.json"),
        "InputError: cannot write here: No such file or directory\n  at:  none/o.json",
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


def test_weights_of_another_network_are_refused(call: Call, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    code, _, err = call("Net", "--weights", "w.safetensors", *OUT)
    assert (code, left_in(tmp_path)) == (2, {"w.safetensors"})
    assert "do not fit this Net: the file lacks conv.bias, conv.weight" in err


def test_a_call_that_fails_leaves_the_files_of_the_one_before(call: Call, tmp_path: Path) -> None:
    assert call("Net", *OUT)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("net.*")}
    assert call("Net", *OUT, "--ignore", "convv")[0] == 2
    assert {path.name: path.read_bytes() for path in tmp_path.glob("net.*")} == before


def test_an_unknown_option_exits_with_2(call: Call) -> None:
    code, _, err = call("Net", *DRY, "--targets", "tensorrt")
    assert (code, "No such option" in err) == (2, True)


def test_help_teaches_patterns_and_its_first_example_runs(call: Call) -> None:
    code, out, _ = call("models.lenet:lenet_digits", "--help")
    assert code == 0
    for words in ("--dry-run", "'layer1->layer3'", "re:(stem|head)$", "Examples", "qdq.load"):
        assert words in out
    example = next(line for line in rows(out) if line.startswith("qdq insert models.lenet"))
    code, out, err = call(*example.split()[2:])
    assert (code, err) == (0, "")
    assert any(row.startswith("c1.input quantize") for row in rows(out))
