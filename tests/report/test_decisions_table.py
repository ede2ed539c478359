"""The decisions of insert on a terminal."""

import io
from collections import Counter

import pytest
from rich.console import Console

from qdq.records.decisions import Decision, InsertReport
from qdq.report.decisions import decisions_table, show_decisions

LONG = "encoder.layer.11.attention.self.query.input"
REPORT = InsertReport(
    "tensorrt",
    (
        Decision("conv.input", "quantize", "input of an integer op (T08, O01)"),
        Decision("conv.output", "off", "the pair stands at the next op's input (T09)"),
        Decision("", "skip", "ignored by '*' [bold]"),
        Decision(LONG, "skip", "called 2 times in one forward, and one range would serve all"),
        Decision("norm", "fold", "folded into conv"),
    ),
)


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(decisions_table(REPORT))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_there_is_a_line_per_decision_with_its_reason() -> None:
    lines = [line.split() for line in printed(200).splitlines() if line.strip()]
    assert lines[0] == ["site", "or", "module", "action", "why"]
    for row, line in zip(REPORT.rows, lines[2:], strict=True):
        assert " ".join(line) == f"{row.name or '(the model itself)'} {row.action} {row.why}"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_breaks_lines_and_loses_no_letter(width: int) -> None:
    assert max(map(len, printed(width).splitlines())) <= width
    letters, whole = (Counter("".join(printed(each).split())) for each in (width, 200))
    assert {**letters, "─": 0} == {**whole, "─": 0}


def test_the_counts_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    show_decisions(REPORT)
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith(
        "tensorrt: 1 sites quantize, 1 are kept for other targets; 2 modules and calls stay "
        "float, 1 are folded"
    )
    assert "[bold]" in said
