"""Writing a mended model: checked, and whole or not at all."""

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from qdq.errors import GraphError, InputError
from qdq.graph.linting.reading import require_valid
from qdq.records.base import written_whole


def write_model(model: ModelProto, path: Path, source: Path) -> None:
    """Write what became of the model that was read from `source`.

    External data stays where it is, beside the source.

    Raises:
        InputError: the file cannot be written, or would lie apart from its external data.
        GraphError: the checker objects.
    """
    outside = any(each.data_location == TensorProto.EXTERNAL for each in model.graph.initializer)
    if outside and path.absolute().parent.resolve() != source.absolute().parent.resolve():
        raise InputError(
            "the model has external data, which is found beside it only",
            at=str(path),
            fix=f"write into {source.absolute().parent}",
        )
    with written_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        try:
            require_valid(model, temporary)
        except onnx.checker.ValidationError as error:
            raise GraphError(
                f"the mended graph is not valid: {str(error).strip().splitlines()[0]}",
                at=str(path),
                fix="this is a bug of lint: please report it with the model",
            ) from error
