"""What stands around an op and makes it no site on any target."""

from qdq.targets.opgraph import Op, OpGraph

PAIRS = ("add", "mul", "matmul")  # ops of two tensors, each of which is rounded
IN_REGION = "part of an activation or a normalization, which is one float region (T20, T24)"
_ON_THE_WAY = ("reshape", "identity", "max", "other_add", "to")  # from a mask to its softmax


def why_no_site(op: Op, graph: OpGraph) -> str:
    """Why an op of several tensors stays float wherever it runs; empty if nothing says so."""
    if not graph.varying.issuperset(op.inputs) or (op.kind in PAIRS and len(op.inputs) != 2):
        return "one side is a constant (T23)"
    if op.kind in ("add", "mul") and graph.is_pointwise(op):
        return IN_REGION
    if op.kind == "add" and _reaches_softmax(op, graph):
        return "adds the mask of an attention (T20)"
    return ""


def _reaches_softmax(op: Op, graph: OpGraph) -> bool:
    reader = graph.only_reader(op.outputs[0])
    while reader is not None and reader.kind in _ON_THE_WAY:
        reader = graph.only_reader(reader.outputs[0])
    return reader is not None and reader.kind in ("softmax", "attention")
