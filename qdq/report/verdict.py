"""What the records come to, in plain sentences."""

from qdq.records.ranking import SensitivityReport
from qdq.records.run import RunReport, SummaryRow
from qdq.records.training import FinetuneReport


def verdict(report: RunReport) -> tuple[str, ...]:
    """A sentence per INT8 file, with what to know about it, one on training, one on layers.

    The first row of the report is the float model's.
    """
    said = []
    for row in report.rows[1:]:
        found = report.validation.get(row.name)
        note = f" Note: {found.note}." if found is not None and found.note else ""
        said.append(f"INT8 for {row.name} {_kept(row, report.rows[0])}; {_cost(row)}.{note}")
    if report.finetune is not None:
        said.append(_trained(report.finetune))
    if report.sensitivity is not None and report.sensitivity.rows:
        said.append(_worst(report.sensitivity))
    return tuple(said)


def metric_text(value: float | None) -> str:
    """A share as percent; a metric that is none, as it is."""
    if value is None:
        return ""
    return f"{value:.2%}" if 0 <= value <= 1 else f"{value:.4g}"


def _kept(row: SummaryRow, base: SummaryRow) -> str:
    found, before = _accuracy(row), _accuracy(base)
    if found is None or before is None:
        return f"names the same class as its simulation on {row.agreement:.2%} of the samples"
    points = round(100 * (found - before), 2)
    change = (
        f"{abs(points):.2f} points {'more' if points > 0 else 'less'}" if points else "the same"
    )
    return f"reaches {found:.2%} where float has {before:.2%} ({change})"


def _accuracy(row: SummaryRow) -> float | None:
    return row.torch if row.onnxruntime is None else row.onnxruntime


def _cost(row: SummaryRow) -> str:
    size = f"its file is {row.size_ratio:.0%} of the float file's size"
    if row.integer_layers == row.layers:
        return f"{size}; all {row.layers} layers run in integers in onnxruntime"
    return f"{size}; {row.integer_layers} of {row.layers} layers run in integers in onnxruntime"


def _trained(report: FinetuneReport) -> str:
    epochs = f"{len(report.rows)} epochs of fine-tuning for {report.target}"
    if report.before is None:
        return (
            f"{epochs} trained {report.parameters:,} parameters; nothing was held out to judge it."
        )
    before = f"{report.metric_name} {metric_text(report.before)}"
    best = [row for row in report.rows if row.epoch == report.best_epoch]
    if not best:
        return f"{epochs} did not beat {before}; the weights are as before."
    return (
        f"{epochs} took {before} to {metric_text(best[0].val_metric)}, after epoch {best[0].epoch}."
    )


def _worst(report: SensitivityReport) -> str:
    first = report.rows[0]
    if report.mode == "one_off":
        return f"Layer {first.layer} would gain most from float: {first.sqnr_db:.1f} dB without it."
    return (
        f"Layer {first.layer} is the most sensitive: quantized alone, it leaves "
        f"{first.sqnr_db:.1f} dB."
    )
