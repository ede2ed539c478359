"""The table of rules: each id once, quoted rightly everywhere, and looked for by lint."""

import re
from pathlib import Path

import pytest

import qdq
from qdq.graph.linting import judging
from qdq.graph.linting.checks import CHECKS
from qdq.graph.linting.fixes import FIXES
from qdq.targets import TARGETS
from qdq.targets.rules import RULES

# What no file can show: the version and the hardware that run it, and what is fine as it is.
UNSEEN = {"T31", "T33", "O03", "O08", "O18"}


@pytest.mark.parametrize("id", RULES)
def test_a_rule_has_a_target_a_severity_and_a_reason(id: str) -> None:
    rule = RULES[id]
    assert rule.id == id
    assert rule.target == {"T": "tensorrt", "O": "onnxruntime", "Q": ""}[id[0]]
    assert rule.target in {"", *TARGETS}
    assert rule.severity in ("error", "warning", "note")
    assert rule.why[0].islower() or rule.why.startswith(rule.why.split()[0])
    assert not rule.why.endswith(".")


def test_ids_are_numbered_without_gaps() -> None:
    for letter, count in (("T", 34), ("O", 27), ("Q", 5)):
        ids = [id for id in RULES if id.startswith(letter)]
        assert ids == [f"{letter}{number:02}" for number in range(1, count + 1)]


def test_lint_looks_for_every_rule_that_a_file_can_show() -> None:
    assert judging.CHECKS is CHECKS  # importing it has filled the registry
    looked_for = {rule for rules, _ in CHECKS.values() for rule in rules}
    assert looked_for == RULES.keys() - UNSEEN


def test_a_check_looks_for_rules_of_one_target_and_a_fix_for_one_rule() -> None:
    for rules, _ in CHECKS.values():
        assert len({RULES[rule].target for rule in rules}) == 1
    assert FIXES.keys() <= RULES.keys()


def test_every_id_that_the_package_quotes_exists() -> None:
    for path in Path(qdq.__file__).parent.rglob("*.py"):
        for id in re.findall(r"\b[TO]\d\d\b", path.read_text("utf-8")):
            assert id in RULES, f"{path} quotes {id}"
