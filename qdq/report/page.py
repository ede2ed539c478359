"""The page: every value is escaped, nothing is fetched, and equal records give equal bytes."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from qdq.records.base import to_json_text
from qdq.records.run import RunReport
from qdq.report.charts import (
    MOST_BARS,
    SITE_HEIGHT,
    SITE_WIDTH,
    bar_chart,
    colours,
    site_chart,
)
from qdq.report.verdict import metric_text, verdict

OPEN_PICTURES = 12  # so many are shown at once, the others on a click


def render(report: RunReport, manifest: dict[str, object]) -> str:
    """The run as one self-contained HTML page.

    Args:
        report: the records.
        manifest: what was run with what, as in manifest.json.
    """
    colour_of = colours(report.pictures)
    ranking = report.sensitivity
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            verdict=verdict(report),
            bars=bar_chart(ranking) if ranking is not None and ranking.rows else None,
            most_bars=MOST_BARS,
            colour_of=colour_of,
            charts=[site_chart(each, colour_of) for each in report.pictures],
            open_pictures=OPEN_PICTURES,
            site_size=(SITE_WIDTH, SITE_HEIGHT),
            manifest=to_json_text(manifest).rstrip(),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qdq", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent, share=_share, db=_db, decimal=_decimal, whole=_whole, metric=metric_text
    )
    return environment


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _share(share: float) -> str:
    """A share that may be tiny but is not nothing."""
    return "0%" if share == 0 else f"{100 * share:.2g}%"


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _decimal(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _whole(value: int) -> str:
    return f"{value:,}"
