"""What kept a node from running on codes in onnxruntime's CPU provider.

What lint finds at the node comes first. The rest says what a rule of its operator is missing.
"""

from dataclasses import dataclass

from qdq.graph.linting.nodes import DQ, Node, Q
from qdq.graph.linting.onnxruntime_operators import readers_of_int8
from qdq.graph.linting.view import View
from qdq.records.findings import Finding

_RULES = {
    "Add": "O09", "Mul": "O09", "Concat": "O11", "MatMul": "O15", "Gemm": "O16", "Conv": "O01",
    "AveragePool": "O13", "GlobalAveragePool": "O13", "Sigmoid": "O13", "LeakyRelu": "O13",
    "Softmax": "O13", "Split": "O22",
    **dict.fromkeys(
        ("MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
         "Resize", "DepthToSpace"),
        "O12",
    ),
}  # fmt: skip
_FIXED_SIZES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Resize", "Split"})


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way.

    Attributes:
        rule: its id; "" where the file asks for nothing else.
        why: in words.
    """

    rule: str
    why: str


def obstacle(view: View, node: Node, findings: list[Finding]) -> Obstacle:
    """Why a node that runs on floats does so.

    Args:
        view: the graph it is in.
        node: the node.
        findings: what lint has to say about it, the worst first.
    """
    if findings:
        why = "; ".join(dict.fromkeys(each.why for each in findings))
        return Obstacle(findings[0].rule, why)
    values = node.inputs[:1] if node.op in _FIXED_SIZES else node.inputs[:2]
    values = node.inputs if node.op in ("Add", "Mul", "Concat", "Sum") else values
    bare = [name for name in values if name and view.op(name) != DQ]
    readers = [use for name in node.outputs if name for use in view.readers(name)]
    ends = [use.op for use in readers if use.op != Q]
    if len(bare) == sum(map(bool, values)) and len(ends) == len(readers):
        return Obstacle("", "no Q/DQ pair touches it")
    rule = _RULES.get(node.op)
    if rule is None:
        return Obstacle("O14", f"onnxruntime has no integer kernel for {node.op} between DQ and Q")
    if bare:
        return Obstacle(rule, f"{bare[0]} reaches it without a pair")
    if ends or not readers:
        return Obstacle(rule, f"behind it stands {(ends or [''])[0] or 'an output'}, no Q")
    ahead = (view.pair(pair) for name in values if (pair := view.dq(name)) is not None)
    behind = (use.node for use in readers)
    for quantizer in (each for each in (*behind, *ahead) if each is not None):
        if (count := readers_of_int8(view, quantizer)) > 1:
            why = f"int8 codes of {quantizer.label} have {count} readers: they cannot become uint8"
            return Obstacle("O27", why)
    return Obstacle("", "its pairs look whole, and onnxruntime still runs it in float")


def conversion(view: View, node: Node) -> str:
    """Why a node that changes the type of values is executed."""
    if node.op == Q:
        return "makes codes of floats"
    if node.op != DQ:
        return "makes one type of another"
    readers = view.readers(node.result)
    reader = readers[0].node if readers else None
    goes = "an output of the model" if reader is None else reader.label
    if view.is_constant(node.input(0)):
        return f"decoded in every run, for {goes}"
    return f"makes floats of codes, for {goes}"
