"""What a rule has to say about a file."""

from dataclasses import dataclass
from typing import Literal

import onnx

# What makes a runtime refuse the file or compute something else; all other rules cost speed.
ERRORS = frozenset({"T01", "T02", "T04", "T05", "T07", "T10", "O07", "O23", "O25", "O26"})


@dataclass(frozen=True, order=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: its id, "T12" (TensorRT) or "O04" (onnxruntime).
        node: the node that shows it, by name, or by operator and first output.
        why: what is wrong there.
    """

    rule: str
    node: str
    why: str

    @property
    def severity(self) -> Literal["error", "warn"]:
        return "error" if self.rule in ERRORS else "warn"

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} at {self.node}: {self.why}"


def found(rule: str, node: onnx.NodeProto, why: str) -> Violation:
    return Violation(rule, label(node), why)


def label(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} -> {node.output[0]}"
