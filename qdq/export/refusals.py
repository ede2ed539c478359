"""What torch's exporter raises, as an error that a user can act on."""

import re

from torch import nn

from qdq.data.batches import first_line
from qdq.errors import ExportError

_UNKNOWN = re.compile(r"[Oo]perator '?(?P<operator>[\w:]+)'?")
_NEWER = re.compile(r"added in version (?P<opset>\d+)")
# Behind what is wrong it goes on about itself: whom to ask, and values of a graph nobody knows.
_GOSSIP = re.compile(r"(\. Please |,? try exporting|,? +\[Caused by).*")


def explain_refusal(error: Exception, model: nn.Module, *, newest: int) -> ExportError:
    """The error to raise instead of the exporter's own.

    Args:
        error: what `torch.onnx.export` raised.
        model: what it could not write.
        newest: the newest opset that may be asked for.
    """
    said = _GOSSIP.sub("", first_line(error))
    operator, newer = _UNKNOWN.search(said), _NEWER.search(said)
    if newer is not None and int(newer["opset"]) <= newest:
        fix = f"pass opset={newer['opset']}"
    elif operator is not None:
        fix = f"compute it without {operator['operator']}, or outside of the model"
    else:
        fix = (
            "export the float model with torch.onnx.export(..., dynamo=False) to see what it "
            "objects to"
        )
    return ExportError(
        f"torch.onnx could not export this model: {type(error).__name__}: {said}",
        at=type(model).__name__,
        fix=fix,
    )
