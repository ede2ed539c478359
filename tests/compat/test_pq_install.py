"""The bare name pytorch_quantization: in code, and for a script that is run untouched."""

import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import qdq
from qdq.compat import absl_logging
from qdq.compat.pytorch_quantization.__main__ import main
from qdq.compat.pytorch_quantization.nn import TensorQuantizer

ROOT = Path(qdq.__file__).parents[1]
SUBMODULES = (
    "tensor_quant",
    "cuda_ext",
    "nn",
    "nn.functional",
    "nn.modules",
    "nn.modules._utils",
    "nn.modules.clip",
    "nn.modules.quant_conv",
    "nn.modules.quant_instancenorm",
    "nn.modules.quant_linear",
    "nn.modules.quant_pooling",
    "nn.modules.quant_rnn",
    "nn.modules.tensor_quantizer",
    "nn._functions.quant_rnn",
    "calib",
    "calib.calibrator",
    "calib.histogram",
    "calib.max",
    "quant_modules",
    "utils",
    "utils.quant_logging",
    "utils.reduce_amax",
    "optim",
    "optim.helper",
)


def python(
    *arguments: str, cwd: Path, fails: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode != 0) == fails, result.stderr
    return result


def code(text: str) -> str:
    return textwrap.dedent(text)


def test_every_submodule_is_the_same_object_under_both_names(tmp_path: Path) -> None:
    lines = [f"import pytorch_quantization.{name}" for name in SUBMODULES]
    script = code(
        f"""
        import sys
        import qdq.compat
        package = qdq.compat.install()
        assert qdq.compat.install() is package
        import pytorch_quantization
        assert pytorch_quantization is package and package.__version__ == "2.2.1"
        for name in {SUBMODULES!r}:
            __import__("pytorch_quantization." + name)
            full = sys.modules["qdq.compat.pytorch_quantization." + name]
            assert sys.modules["pytorch_quantization." + name] is full, name
        from pytorch_quantization import nn as quant_nn
        from pytorch_quantization.utils.reduce_amax import reduce_amax
        from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
        import qdq
        assert quant_nn.TensorQuantizer is TensorQuantizer
        assert quant_nn.modules.quant_linear.QuantLinear is quant_nn.QuantLinear
        assert quant_nn.functional.clip
        assert issubclass(TensorQuantizer, qdq.TensorQuantizer)
        """
    ) + "\n".join(lines)
    python("-c", script, cwd=tmp_path)


def test_a_real_package_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pytorch_quantization").mkdir()
    (tmp_path / "pytorch_quantization/__init__.py").write_text("VALUE = 7\n")
    script = code(
        """
        import qdq.compat
        from qdq.errors import StepError
        for first in ("find it", "import it"):
            try:
                qdq.compat.install()
            except StepError as error:
                print(error)
            else:
                raise SystemExit("not refused")
            import pytorch_quantization
            assert pytorch_quantization.VALUE == 7
        """
    )
    said = python("-c", script, cwd=tmp_path).stdout
    assert said.count("another pytorch_quantization can be imported here") == 2
    assert said.count(str(tmp_path / "pytorch_quantization/__init__.py")) == 2
    assert "fix: uninstall or rename it" in said


SCRIPT = code(
    """
    import sys
    from absl import logging
    import torch
    import pytorch_quantization.nn as quant_nn
    from pytorch_quantization import quant_modules
    import beside
    logging.set_verbosity(logging.FATAL)
    quant_modules.initialize()
    model = torch.nn.Linear(4, 3)
    quant_modules.deactivate()
    assert type(model) is quant_nn.QuantLinear and type(torch.nn.Linear(4, 3)) is not type(model)
    for name, module in model.named_modules():
        if name.endswith("_quantizer"):
            module.enable_calib()
            module.disable_quant()
    model(torch.ones(2, 4))
    for name, module in model.named_modules():
        if name.endswith("_quantizer"):
            module.load_calib_amax()
            module.disable_calib()
            module.enable_quant()
    print(__name__, sys.argv, model._input_quantizer.amax.item(), beside.VALUE)
    """
)


def test_a_script_of_old_runs_untouched(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/script.py").write_text(SCRIPT)
    (tmp_path / "old/beside.py").write_text("VALUE = 'found'\n")
    run = ("-m", "qdq.compat.pytorch_quantization", "old/script.py", "--epochs", "3")
    result = python(*run, cwd=tmp_path)
    assert result.stdout == "__main__ ['old/script.py', '--epochs', '3'] 1.0 found\n"
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [([], "name the script to run"), (["gone.py"], "no such file: gone.py")],
)
def test_a_script_that_is_not_there_is_named(arguments: list[str], problem: str) -> None:
    usage = "usage: python -m qdq.compat.pytorch_quantization SCRIPT [ARGS...]"
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert str(stopped.value) == f"{usage}\n{problem}"


def test_an_installed_absl_is_the_one_that_is_used(tmp_path: Path) -> None:
    (tmp_path / "absl").mkdir()
    (tmp_path / "absl/__init__.py").write_text("")
    (tmp_path / "absl/logging.py").write_text("WHOSE = 'their own'\n")
    script = (
        "import qdq.compat; qdq.compat.install(); from absl import logging; print(logging.WHOSE)"
    )
    assert python("-c", script, cwd=tmp_path).stdout == "their own\n"


def test_the_verbosity_of_absl_is_that_of_our_logger(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pytorch_quantization")
    before = logger.level
    try:
        for level in (absl_logging.ERROR, absl_logging.WARN, absl_logging.INFO, absl_logging.DEBUG):
            absl_logging.set_verbosity(level)
            assert absl_logging.get_verbosity() == level
        absl_logging.set_verbosity("error")
        TensorQuantizer().disable_calib()
        absl_logging.log(absl_logging.WARNING, "not shown")
        absl_logging.log(absl_logging.ERROR, "shown %d", 1)
    finally:
        logger.setLevel(before)
    assert [record.getMessage() for record in caplog.records] == ["shown 1"]
