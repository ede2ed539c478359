"""Reading an ONNX file with suspicion, and writing one whole or not at all."""

import os
from pathlib import Path

import onnx

from qdq.errors import GraphError
from qdq.records.base import written_whole


def load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """A checked ONNX model.

    Raises:
        GraphError: there is no such file, or it is no valid ONNX model.
    """
    file = Path(path)
    if not file.is_file():
        raise GraphError("there is no such ONNX file", at=str(file), fix="check the path")
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:
        raise GraphError(
            f"this is no valid ONNX model: {_first_line(error)}",
            at=str(file),
            fix="export it again, or run onnx.checker on it for the details",
        ) from error
    return model


def save(model: onnx.ModelProto, path: str | os.PathLike[str], *, opset: int) -> None:
    """Check the model in full and write it under its name in one step.

    Args:
        model: a model in the default ONNX domain.
        path: where to; its folder exists.
        opset: what the model must declare, and nothing but that.

    Raises:
        GraphError: another opset or a foreign domain is declared, or the checker objects.
        InputError: the file cannot be written.
    """
    declared = {(entry.domain or "ai.onnx"): entry.version for entry in model.opset_import}
    if declared != {"ai.onnx": opset}:
        raise GraphError(
            f"the graph declares {declared}, not opset {opset} alone",
            at=str(path),
            fix="this is a bug in the export: please report it with the model",
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise GraphError(
            f"the graph that was built is not valid: {_first_line(error)}",
            at=str(path),
            fix="this is a bug in the export: please report it with the model",
        ) from error
    with written_whole(Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The model's metadata_props."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
