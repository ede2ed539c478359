"""The story of scripts/pq_workflow.py: both ways of saying the seven steps end in one place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("lightning")
ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^(.*?) +qdq ([\d.]+)% +([\d.]+) dB +old ([\d.]+)% +([\d.]+) dB$", re.MULTILINE)


@pytest.mark.slow
def test_the_workflow_agrees_in_both_names(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts/pq_workflow.py", "--out", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = {what: tuple(map(float, found)) for what, *found in LINE.findall(result.stdout)}
    layers = [name for name in rows if name.startswith("only ")]
    assert set(rows) == {"percentile", "mse", "entropy", "max", *layers, "fine-tuned"}
    assert len(layers) >= 3
    for name in ("max", *layers):
        ours, our_db, theirs, their_db = rows[name]
        assert ours == theirs
        assert abs(our_db - their_db) < 0.1
    for ours, our_db, theirs, their_db in rows.values():
        assert abs(ours - theirs) < 1
        assert abs(our_db - their_db) < 4
    for name in ("qdq", "old"):
        onnx.checker.check_model(onnx.load(tmp_path / f"{name}.onnx"), full_check=True)
