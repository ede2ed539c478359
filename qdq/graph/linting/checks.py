"""The registry that checks join, and how one tells what it found."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from qdq.graph.linting.nodes import Node
from qdq.graph.linting.view import View
from qdq.records.findings import Finding
from qdq.registry import Registry
from qdq.targets import Target
from qdq.targets.rules import RULES, Severity

Check: TypeAlias = Callable[[View, Target], Iterator[Finding]]

# Name of the check -> the rules it may report, and the check.
CHECKS: Registry[str, tuple[tuple[str, ...], Check]] = Registry("check")


def checks(*rules: str) -> Callable[[Check], Check]:
    """Let a function look for these rules in every graph of their target."""

    def keep(check: Check) -> Check:
        CHECKS.add(f"{check.__module__.rpartition('.')[2]}.{check.__name__}")((rules, check))
        return check

    return keep


def found(
    rule: str, node: Node, why: str, fix: str, *, tensor: str = "", severity: Severity | None = None
) -> Finding:
    """A finding at a node, about its first output unless a tensor is named."""
    level = severity or RULES[rule].severity
    return Finding(rule, level, node.label, tensor or node.result, why, fix)
