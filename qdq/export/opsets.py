"""Which opsets can be written here, and by which of torch's two exporters."""

from functools import cache

import onnx
import onnxruntime
from onnx import TensorProto, helper

from qdq.errors import ExportError
from qdq.registry import choose_one_of

OLDEST_OPSET = 13  # the first with per-channel Q/DQ (T05)
FIRST_OF_DYNAMO = 18  # torch.export's way to ONNX writes no older one
LAST_OF_TORCHSCRIPT = FIRST_OF_DYNAMO - 1  # the last that the TorchScript exporter writes fully

TORCHSCRIPT, DYNAMO = "torchscript", "dynamo"
EXPORTERS = ["auto", DYNAMO, TORCHSCRIPT]


@cache
def newest_opset() -> int:
    """The newest opset that the installed onnx describes and the installed onnxruntime runs."""
    newest = onnx.defs.onnx_opset_version()
    return next(opset for opset in range(newest, OLDEST_OPSET - 1, -1) if _runs(opset))


def choose_exporter(opset: int, exporter: str = "auto") -> str:
    """The exporter that writes this opset: "torchscript" below 18, "dynamo" from there up.

    Args:
        opset: of the default domain.
        exporter: "auto", or the one it has to be.

    Raises:
        ExportError: no such exporter, an opset nobody writes, or one that this exporter does not.
    """
    if exporter not in EXPORTERS:
        raise ExportError(
            f"there is no exporter {exporter!r}", fix=choose_one_of(exporter, EXPORTERS)
        )
    if not isinstance(opset, int) or not OLDEST_OPSET <= opset <= newest_opset():
        raise ExportError(
            f"opset={opset!r} is outside {OLDEST_OPSET}..{newest_opset()}",
            fix=f"pass opset=13: per-channel Q/DQ begins there, and {newest_opset()} is the newest "
            "that onnx and onnxruntime know here",
        )
    wanted = TORCHSCRIPT if opset <= LAST_OF_TORCHSCRIPT else DYNAMO
    if exporter not in ("auto", wanted):
        raise ExportError(
            f"the exporter {exporter!r} does not write opset {opset}",
            fix=f'pass exporter="auto", which takes {TORCHSCRIPT!r} below opset {FIRST_OF_DYNAMO} '
            f"and {DYNAMO!r} from there up",
        )
    return wanted


def _runs(opset: int) -> bool:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    # The default IR version is onnx's newest, which the runtime may not know though it does the op.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # onnxruntime has an exception class for each of its status codes
        return False
    return True
