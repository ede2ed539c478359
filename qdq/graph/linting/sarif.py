"""Findings as SARIF 2.1.0, the format that code hosts and editors show."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from qdq.records.findings import Finding, LintReport
from qdq.targets.rules import RULES
from qdq.version import version

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(report: LintReport) -> dict[str, Any]:
    """One run with all rules of the target and a result per finding.

    A result's place is the file that was judged (of a mended one, the copy) and, as logical
    location, the node. OASIS, Static Analysis Results Interchange Format 2.1.0.
    """
    ids = [rule.id for rule in RULES.values() if rule.target in ("", report.target)]
    uri = _uri(Path(report.written or report.path))
    driver = {
        "name": "qdq lint",
        "version": version(),
        "rules": [_rule(id) for id in ids],
    }
    run = {
        "tool": {"driver": driver},
        "artifacts": [{"location": {"uri": uri}}],
        "results": [_result(row, uri, ids.index(row.rule)) for row in report.rows],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(id: str) -> dict[str, Any]:
    rule = RULES[id]
    return {
        "id": id,
        "shortDescription": {"text": rule.why},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(row: Finding, uri: str, index: int) -> dict[str, Any]:
    place = {
        "physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}},
        "logicalLocations": [{"name": row.node, "fullyQualifiedName": row.node}],
    }
    return {
        "ruleId": row.rule,
        "ruleIndex": index,
        "level": row.severity,
        "message": {"text": f"{row.node}: {row.why}. Fix: {row.fix}."},
        "locations": [place],
        "properties": {"tensor": row.tensor},
    }


def _uri(path: Path) -> str:
    """A relative path stays relative, so that a host finds the file in its checkout."""
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
