"""`qdq` as a user calls it. Every wrong call: one clear text, exit code 2, nothing written."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdq.cli import main

RECIPE = """
name = "tiny"
[model]
factory = "tests_cli_nets:{factory}"
{weights}
[data]
source = "tests_cli_nets:{source}"
batch_size = 4
[insert]
ignore = [{ignore}]
[calibrate]
method = "{method}"
{more}
[export]
targets = ["{target}"]
opset = {opset}
"""

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 3)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).flatten(1))

class Training(Net):
    def eval(self):
        return self

def gives_a_list():
    return []

def fails():
    raise RuntimeError("boom")

not_callable = 3

def make(rows, shape=(1, 8, 8), value=None):
    torch.manual_seed(0)
    x = torch.randn(rows, *shape)
    if value is not None:
        x[0, 0, 0, 0] = value
    return x, torch.zeros(rows, dtype=torch.long)

def good(split, size): return [make(size), make(size)]
def empty(split, size): return []
def nan(split, size): return [make(size), make(size, value=float("nan"))]
def shapes(split, size): return [make(size, (3, 8, 8))]
def later_shape(split, size): return [make(size), make(size, (1, 5, 5))]
def triples(split, size): return [(*make(size), 1)]
def scalars(split, size): return 7
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # noqa: ANN201
    (tmp_path / "tests_cli_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tests_cli_nets", raising=False)

    def run(*arguments: str, **changes: object) -> tuple[int, str, str]:
        whole = {
            "factory": "Net",
            "weights": "",
            "source": "good",
            "ignore": "",
            "method": "max",
            "target": "onnxruntime",
            "opset": 13,
            "more": "",
        }
        (tmp_path / "my.toml").write_text(RECIPE.format(**{**whole, **changes}), encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            main(list(arguments) or ["run", "my.toml", "--out", "out"])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_a_good_recipe_of_the_users_own_runs_and_fills_its_folder(call, tmp_path: Path) -> None:  # noqa: ANN001
    code, out, err = call()
    assert code == 0, err
    assert "onnxruntime" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "model.float.onnx",
        "model.onnxruntime.onnx",
        "ranges.safetensors",
        "report.html",
        "report.json",
        "timings.json",
    ]


WRONG = {
    "unknown method": (
        {"method": "maximum"},
        "RegistryError: no calibration method 'maximum'",
        "known: auto, coverage, entropy, max, mse, percentile",
    ),
    "unknown target": ({"target": "tensort"}, "RegistryError: no target 'tensort'", "'tensorrt'"),
    "unknown source": ({"source": "x"}, "InputError: data 'tests_cli_nets:x' does not", "spelling"),
    "factory that is not there": (
        {"factory": "Nett"},
        "InputError: model factory 'tests_cli_nets:Nett' does not import: AttributeError",
        "run from the folder that holds the module",
    ),
    "factory that cannot be called": (
        {"factory": "not_callable"},
        "InputError: model factory 'tests_cli_nets:not_callable' is a int, which cannot be called",
        "name a function or a class",
    ),
    "factory of something else": (
        {"factory": "gives_a_list"},
        "InputError: model factory 'tests_cli_nets:gives_a_list' gave a list",
        "let it return a torch.nn.Module",
    ),
    "factory that fails": (
        {"factory": "fails"},
        "InputError: model factory 'tests_cli_nets:fails' failed: RuntimeError: boom",
        "call it by itself",
    ),
    "missing weights": (
        {"weights": 'weights = "none.safetensors"'},
        "InputError: there is no such file\n  at:  none.safetensors",
        "check the path",
    ),
    "weights that are none": (
        {"weights": 'weights = "my.toml"'},
        "InputError: this is no safetensors file",
        "safetensors.torch.save_file",
    ),
    "empty data": ({"source": "empty"}, "InputError: the data holds no batch", "at least one"),
    "NaN in the data": ({"source": "nan"}, "InputError: batch 1 holds NaN or infinity", "log of 0"),
    "wrong shapes": (
        {"source": "shapes"},
        "InputError: the model does not take inputs of shape (4, 3, 8, 8)",
        "as the float model takes them",
    ),
    "wrong shapes later on": (
        {"source": "later_shape"},
        "InputError: the model does not take inputs of shape (4, 1, 5, 5)",
        "as the float model takes them",
    ),
    "batches of three": (
        {"source": "triples"},
        "InputError: batch 0 is a tuple of 3",
        "yield (inputs, target)",
    ),
    "data that is no data": (
        {"source": "scalars"},
        "InputError: data is a int, not batches",
        "pass an iterable",
    ),
    "training mode": (
        {"factory": "Training"},
        "StepError: insert needs the model in eval mode",
        "call model.eval() first",
    ),
    "a pattern that fits nothing": (
        {"ignore": '"convv"'},
        "PolicyError: ignore pattern 'convv' fits nothing",
        "there is: conv, fc",
    ),
    "a broken pattern": (
        {"ignore": '"re:("'},
        "PolicyError: ignore pattern 're:(' is no regular expression",
        "as Python's re does",
    ),
    "everything ignored": (
        {"ignore": '"*"'},
        "PolicyError: nothing is left to quantize",
        "replaces layers of exactly these types: ",
    ),
    "an unknown mode": (
        {"more": '[sensitivity]\nmode = "one"'},
        "RecipeError: sensitivity.mode = 'one': input should be 'one_on' or 'one_off'",
        "correct the value",
    ),
    "an unknown key of a new table": (
        {"more": "[finetune]\nepoch = 1"},
        "RecipeError: unknown key 'finetune.epoch'",
        "did you mean 'epochs'?",
    ),
    "no epochs": (
        {"more": "[finetune]\nepochs = 0"},
        "RecipeError: finetune.epochs = 0",
        "correct the value",
    ),
    "an unknown loss": (
        {"more": '[finetune]\nloss = "mse"\nval_batches = 1'},
        "RegistryError: no loss 'mse'",
        "known: ",
    ),
    "a trainable pattern that fits nothing": (
        {"more": '[finetune]\ntrainable = ["convv"]\nval_batches = 1'},
        "PolicyError: trainable pattern 'convv' fits nothing",
        "there is: ",
    ),
    "too many batches for validation": (
        {"more": "[finetune]\nval_batches = 2"},
        "InputError: finetune.val_batches=2 leaves nothing to train on",
        "val_batches = 0",
    ),
    "a target that is not there to train for": (
        {"more": '[finetune]\ntarget = "tensort"'},
        "RegistryError: no target 'tensort'",
        "'tensorrt'",
    ),
    "an old opset": ({"opset": 12}, "ExportError: opset=12 is outside 13..", "pass opset=13"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_ends_in_one_clear_text_and_nothing_written(
    case: str,
    call,  # noqa: ANN001
    tmp_path: Path,
) -> None:
    changes, said, fix = WRONG[case]
    code, _, err = call(**changes)
    assert code == 2
    assert said in err
    assert fix in err.split("fix: ")[1]
    assert "Traceback" not in err
    assert err.count("\n") <= 3
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"my.toml", "tests_cli_nets.py"}


def test_another_sha256_is_refused(call, tmp_path: Path) -> None:  # noqa: ANN001
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"a": zeros(1)}, tmp_path / "w.safetensors")
    code, _, err = call(weights='weights = "w.safetensors"\nsha256 = "00"')
    assert code == 2
    assert "InputError: the weights are not the recipe's: their sha256 is " in err
    assert "fix: restore the file" in err


def test_weights_of_another_network_are_refused(call, tmp_path: Path) -> None:  # noqa: ANN001
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"a": zeros(1)}, tmp_path / "w.safetensors")
    code, _, err = call(weights='weights = "w.safetensors"')
    assert code == 2
    assert "do not fit this Net: the file lacks conv.bias, conv.weight" in err


def test_a_folder_that_cannot_be_written_is_told_before_any_work(call, tmp_path: Path) -> None:  # noqa: ANN001
    code, out, err = call("run", "my.toml", "--out", "my.toml/out")
    assert code == 2
    assert "InputError: cannot write the output folder" in err
    assert "fix: pass --out with a folder that you may write to" in err
    assert "calibrate" not in out
    code, _, err = call("run", "my.toml", "--out", "my.toml")
    assert code == 2
    assert "there is a file of that name" in err


def test_a_run_that_fails_leaves_the_files_of_the_one_before(call, tmp_path: Path) -> None:  # noqa: ANN001
    assert call()[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert call(source="later_shape")[0] == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_unknown_recipe_and_an_unknown_option_exit_with_2(call) -> None:  # noqa: ANN001
    code, _, err = call("run", "lenet_digit")
    assert (code, "did you mean 'lenet_digits'?" in err) == (2, True)
    code, _, err = call("run", "my.toml", "--methd", "max")
    assert (code, "No such option" in err) == (2, True)


def test_a_stage_that_cannot_be_skipped_is_refused_before_any_work(call) -> None:  # noqa: ANN001
    code, out, err = call("run", "my.toml", "--out", "out", "--skip", "sensitivty")
    assert (code, out) == (2, "")
    assert "RecipeError: no stage 'sensitivty' to skip" in err
    assert "did you mean 'sensitivity'?" in err


def test_training_and_its_files_come_with_the_table_and_go_with_skip(call, tmp_path: Path) -> None:  # noqa: ANN001
    pytest.importorskip("lightning", reason="fine-tuning needs the extra 'train'")
    more = "[sensitivity]\n[finetune]\nval_batches = 1"
    code, out, err = call(more=more)
    assert code == 0, err
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnxruntime.qat.onnx", "qat.safetensors", "sensitivity.csv"} <= made
    stages = [line.split()[0] for line in out.splitlines() if line[:1].islower()]
    assert "finetune" in stages
    skips = [f"--skip={name}" for name in ("finetune", "sensitivity", "latency", "report")]
    code, out, err = call("run", "my.toml", "--out", "less", *skips, more=more)
    assert code == 0, err
    assert {path.name for path in (tmp_path / "less").iterdir()} == {
        "manifest.json",
        "model.float.onnx",
        "model.onnxruntime.onnx",
        "ranges.safetensors",
        "report.json",
    }


def test_data_is_a_place_a_kind_or_a_function(call, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.delenv("QDQ_DATA", raising=False)
    assert call("run", "my.toml", "--out", "o", "--data", "tests_cli_nets:empty")[0] == 2
    code, _, err = call("run", "my.toml", "--out", "o", "--data", "mnist")
    assert (code, "nothing says where the data is" in err) == (2, True)
    code, _, err = call(source="good", more="")
    assert code == 0, err


def test_weights_below_the_data_need_to_know_where_it_is(call, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.delenv("QDQ_DATA", raising=False)
    code, _, err = call(weights='weights = "$QDQ_DATA/w.safetensors"')
    assert (code, "InputError: nothing says where the weights are" in err) == (2, True)
    code, _, err = call(
        "run", "my.toml", "--data", "/nowhere", weights='weights = "$QDQ_DATA/w.safetensors"'
    )
    assert (code, "there is no such file\n  at:  /nowhere/w.safetensors" in err) == (2, True)


def test_options_replace_what_the_recipe_says(call, tmp_path: Path) -> None:  # noqa: ANN001
    code, out, _ = call(
        "run", "my.toml", "--out", "out", "--target", "tensorrt", "--ignore", "conv", "--quiet"
    )
    assert (code, out) == (0, "")
    assert (tmp_path / "out" / "model.tensorrt.onnx").is_file()
    assert not (tmp_path / "out" / "model.onnxruntime.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        (["--help"], ["qdq run lenet_digits", "recipes"]),
        (["run", "lenet_digits", "--help"], ["[calibrate]", "percentile", "--ignore", "Examples"]),
        (["recipes"], ["lenet_digits"]),
        (["--version"], ["qdq "]),
    ],
)
def test_help_teaches(call, arguments: list[str], taught: list[str]) -> None:  # noqa: ANN001
    code, out, _ = call(*arguments)
    assert code == 0
    for words in taught:
        assert words in out


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; sys.argv = ['qdq', '--help']\nfrom qdq.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - start < 10  # a hang, not a benchmark
