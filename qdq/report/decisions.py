"""Every decision of insert with its reason, for a terminal."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from qdq.records.decisions import Action, InsertReport, told_ratio

_STYLES: dict[Action, str] = {"quantize": "green", "off": "dim", "skip": "yellow", "fold": "dim"}


def show_decisions(report: InsertReport) -> None:
    """Print one line per site and per module left alone, then how many there are of each."""
    console = Console(highlight=False, markup=False)
    console.print(decisions_table(report))
    counts = Counter(row.action for row in report.rows)
    console.print(
        f"{report.target}: {counts['quantize']} sites quantize, {counts['off']} are kept for other "
        f"targets; {counts['skip']} modules and calls stay float, {counts['fold']} are folded"
    )
    for line in told_ratio(report.predicted):
        console.print(line.strip())


def decisions_table(report: InsertReport) -> Table:
    """The rows of the report as they stand: name, action, why."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("site or module", overflow="fold")
    table.add_column("action", no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in report.rows:
        table.add_row(
            row.name or "(the model itself)", row.action, row.why, style=_STYLES[row.action]
        )
    return table
