"""What differences between onnxruntime and its simulation are put down to."""

from pathlib import Path

import pytest

from qdq.graph.explaining.sessions import optimized
from qdq.graph.simulation import comparison
from tests.graph.explained_files import file_of
from tests.graph.graph_sketch import Sketch


@pytest.mark.parametrize(
    ("flags", "machine", "op", "why"),
    [
        ("avx2", "x86_64", "MatMulInteger", "without VNNI, x86 saturates (O24)"),
        ("avx2", "x86_64", "QLinearAdd", "no reason is known: please report it"),
        ("avx2 avx512_vnni", "x86_64", "QGemm", "no reason is known: please report it"),
        ("sse4_2", "x86_64", "QLinearAdd", "rounds otherwise than those for x86 with AVX2"),
        ("", "aarch64", "QGemm", "rounds otherwise than those for x86 with AVX2"),
    ],
)
def test_a_difference_is_put_down_to_what_this_cpu_lacks(
    monkeypatch: pytest.MonkeyPatch, flags: str, machine: str, op: str, why: str
) -> None:
    monkeypatch.setattr(comparison, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(comparison.platform, "machine", lambda: machine)
    assert why in comparison._of_this_cpu(op)


def test_a_product_that_differs_in_onnxruntime_itself_is_undefined(tmp_path: Path) -> None:
    draw = Sketch(1, 4, 6, 6)
    x = draw.integer_conv(draw.pair(draw.x, "in"), 8, 4, 3, 3)
    path = file_of(draw.done(draw.pair(x, "out")), tmp_path)
    steps = comparison.Execution(optimized(path.read_bytes(), path), path).steps
    step = next(each for each in steps if each.node.op_type == "QLinearConv")
    row = comparison._row(step, comparison._Count(by="onnxruntime", own=1, differing=1))
    assert row.why.startswith("onnxruntime leaves this product undefined: nothing is summed")
