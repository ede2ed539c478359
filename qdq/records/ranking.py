"""How much each layer suffers from quantization."""

import csv
import io
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from qdq.records.base import Record, written_whole


@dataclass(frozen=True)
class SensitivityRow:
    """One layer.

    Attributes:
        layer: its name.
        score: what its quantization costs; the larger, the more sensitive. Without a metric of
            the user's: noise power over signal power of the model's first output. With one: how
            much the metric falls.
        sqnr_db: signal-to-quantization-noise ratio of the first output, dB.
        metric: of the model in this state; None where there is nothing to measure.
    """

    layer: str
    score: float
    sqnr_db: float
    metric: float | None


@dataclass(frozen=True)
class SensitivityReport(Record):
    """Every layer, the most sensitive first.

    Attributes:
        mode: "one_on": one layer quantized at a time; "one_off": all but one.
        metric_name: what `metric` is; "" where there is none.
        baseline: of the float model (one_on) or of the quantized one (one_off).
        samples: how many rows of the output were compared.
        rows: sorted by score, largest first.
    """

    mode: str
    metric_name: str
    baseline: float | None
    samples: int
    rows: tuple[SensitivityRow, ...]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as CSV with a header, whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(SensitivityRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        with written_whole(Path(path)) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")

    def __str__(self) -> str:
        width = max([len(row.layer) for row in self.rows] + [5])
        lines = [f"{'layer':<{width}}  {'score':>10}  {'SQNR dB':>8}  {self.metric_name:>8}"]
        for row in self.rows:
            metric = "" if row.metric is None else f"{row.metric:.2%}"
            lines.append(
                f"{row.layer:<{width}}  {row.score:>10.3g}  {row.sqnr_db:>8.1f}  {metric:>8}"
            )
        return "\n".join(lines)
