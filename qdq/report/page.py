"""The page: every value is escaped, nothing is fetched, and equal records give equal bytes."""

from importlib import resources

from jinja2 import Environment, StrictUndefined, select_autoescape

from qdq.records.run import RunReport


def render(report: RunReport, manifest: dict[str, object]) -> str:
    """The run as one self-contained HTML page.

    Args:
        report: the records.
        manifest: what was run with what, as in manifest.json.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "" if share is None else f"{share:.2%}"
    environment.filters["decimal"] = lambda value: "" if value is None else f"{value:.4g}"
    source = (resources.files("qdq") / "report" / "page.html").read_text("utf-8")
    return environment.from_string(source).render(report=report, manifest=manifest)
