"""What the README shows is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import qdq

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_ten_lines_run_as_they_stand(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: extra 'demo'")
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "5 of 5 layers in integers" in result.stdout
    onnx.checker.check_model(onnx.load(tmp_path / "lenet.int8.onnx"), full_check=True)


def test_every_name_the_readme_calls_exists() -> None:
    for name in re.findall(r"\bqdq\.([a-z_]+)\(", README):
        assert name in qdq.__all__, name


def test_every_path_the_readme_and_contributing_name_exists() -> None:
    text = README + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for path in set(re.findall(r"`((?:qdq|tests|scripts|models)/[\w/.]*)`", text)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", ["setup", "run", "test"])
def test_make_knows_the_commands_of_the_readme(target: str) -> None:
    result = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_ci_runs_the_test_command() -> None:
    assert (ROOT / ".ci" / "run").read_text("utf-8").rstrip().endswith("make test")
