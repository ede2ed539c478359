"""What torch's exporters raise, as an error that a user can act on."""

import re

from torch import nn

from qdq.data.batches import first_line
from qdq.errors import ExportError
from qdq.export.opsets import LAST_OF_TORCHSCRIPT, newest_opset

_UNKNOWN = re.compile(r"[Oo]perator '?(?P<operator>[\w:]+)'?")
_UNDISPATCHED = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<operator>[\w:.]+)'")
_NEWER = re.compile(r"added in version (?P<opset>\d+)")
_FIXED = re.compile(
    r"marked (?P<size>\w+) as dynamic but your code specialized it .*\((?P<n>\d+)\)"
)
# Behind what is wrong it goes on about itself: whom to ask, and values of a graph nobody knows.
_GOSSIP = re.compile(r"(\. Please |,? try exporting|,? +\[Caused by|! For more information).*")


def explain_refusal(error: Exception, model: nn.Module, *, opset: int) -> ExportError:
    """The error to raise instead of the exporter's own.

    Args:
        error: what `torch.export.export` or `torch.onnx.export` raised.
        model: what it could not write.
        opset: what it was asked for.
    """
    root = error
    while opset > LAST_OF_TORCHSCRIPT and isinstance(root.__cause__, Exception):
        root = root.__cause__  # torch.export's way tells around it how to report a bug
    said = f"{type(root).__name__}: {_GOSSIP.sub('', first_line(root))}"
    undispatched, fixed = _UNDISPATCHED.search(str(error)), _FIXED.search(str(error))
    if undispatched is not None:
        said = f"it has no ONNX for {undispatched['operator']}"
    if fixed is not None:
        said = f"the forward fixes the size {fixed['size']!r} to {fixed['n']}"
    return ExportError(
        f"torch.onnx could not export this model: {said}",
        at=type(model).__name__,
        fix=_fix(error, said, opset),
    )


def _fix(error: Exception, said: str, opset: int) -> str:
    newer = _NEWER.search(said)
    if newer is not None and int(newer["opset"]) <= newest_opset():
        return f"pass opset={newer['opset']}"
    operator = _UNDISPATCHED.search(str(error)) or _UNKNOWN.search(said)
    if operator is not None:
        return f"compute it without {operator['operator']}, or outside of the model"
    if _FIXED.search(str(error)):
        return "compute it for any size, or pass dynamic_batch=False and no dynamic_shapes of it"
    if opset > LAST_OF_TORCHSCRIPT:
        return f"pass opset={LAST_OF_TORCHSCRIPT}, which another exporter of torch's writes"
    return (
        "export the float model with torch.onnx.export(..., dynamo=False) to see what it objects to"
    )
