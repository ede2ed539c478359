"""SARIF as its standard wants it: what a code host reads of a finding."""

from pathlib import Path

import onnx

from qdq.graph.linting.judging import lint
from qdq.graph.linting.sarif import to_sarif
from qdq.records.findings import Finding, LintReport
from qdq.targets.rules import RULES
from tests.checking.tiny_graphs import Net


def report(path: Path) -> LintReport:
    net = Net(signed=False)
    onnx.save(net.model(net.conv(net.pair("x", zero=128))), path)
    return lint(path, "tensorrt")


def test_a_log_has_its_version_one_run_and_the_tool(tmp_path: Path) -> None:
    log = to_sarif(report(tmp_path / "m.onnx"))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "qdq lint"
    listed = {each["id"]: each for each in driver["rules"]}
    assert len(listed) == len(driver["rules"])
    assert listed.keys() == {rule.id for rule in RULES.values() if rule.target != "onnxruntime"}
    assert listed["T01"]["shortDescription"]["text"] == RULES["T01"].why
    assert listed["T01"]["defaultConfiguration"]["level"] == "error"


def test_every_finding_is_a_result_with_rule_level_message_and_place(tmp_path: Path) -> None:
    found = report(tmp_path / "m.onnx")
    (run,) = to_sarif(found)["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == len(found.rows) > 0
    for row, result in zip(found.rows, run["results"], strict=True):
        assert result["ruleId"] == row.rule == rules[result["ruleIndex"]]["id"]
        assert result["level"] == row.severity in ("error", "warning", "note")
        assert result["message"]["text"] == f"{row.node}: {row.why}. Fix: {row.fix}."
        (place,) = result["locations"]
        artifact = place["physicalLocation"]["artifactLocation"]
        assert artifact["uri"] == (tmp_path / "m.onnx").as_uri()
        assert run["artifacts"][artifact["index"]]["location"]["uri"] == artifact["uri"]
        assert place["logicalLocations"] == [{"name": row.node, "fullyQualifiedName": row.node}]


def test_a_relative_path_stays_relative_and_is_escaped() -> None:
    row = Finding("O02", "warning", "conv", "y", "no Q behind it", "put a pair there")
    (run,) = to_sarif(LintReport("nets/my net#1.onnx", "onnxruntime", 2, (row,)))["runs"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "nets/my%20net%231.onnx"


def test_a_mended_file_is_where_its_findings_lie() -> None:
    row = Finding("O02", "warning", "conv", "y", "no Q behind it", "put a pair there")
    (run,) = to_sarif(LintReport("a.onnx", "onnxruntime", 2, (row,), (), "b.onnx"))["runs"]
    assert run["artifacts"] == [{"location": {"uri": "b.onnx"}}]
