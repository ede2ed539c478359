"""Reading an ONNX file with suspicion, and writing one whole or not at all."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import onnx

from qdq.errors import GraphError, RegistryError, first_line
from qdq.graph.edges import Array
from qdq.graph.external_data import place_data, read_data, remove_stale_data, write_data
from qdq.graph.linting.reading import read_model
from qdq.records.base import written_whole
from qdq.targets import Target, get


def load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """A checked ONNX model, with the data that lies beside its file.

    Raises:
        GraphError: there is no such file, or it is too large or no valid ONNX model; or its data
            lies outside its folder, or does not fit its tensors.
    """
    model = read_model(path)
    read_data(model, Path(path))
    return model


def save(
    model: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    opset: int,
    data: Mapping[str, Array] | None = None,
) -> Path | None:
    """Check the model in full and write it under its name in one step.

    The model takes its name last, when its data file is there in whole.

    Args:
        model: a model in the default ONNX domain.
        path: where to; its folder exists.
        opset: what the model must declare, and nothing but that.
        data: what `take_out` took out of the graph, for a data file beside it; None: nothing.

    Returns:
        The data file, None without one.

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
    file = Path(path)
    beside = place_data(model, file, data) if data else None
    stood = beside is not None and beside.exists()
    with written_whole(file) as temporary:
        try:
            if beside is not None and data is not None:
                write_data(beside, data)
            _write_checked(model, temporary, at=file)
        except BaseException:
            if beside is not None and not stood:
                beside.unlink(missing_ok=True)
            raise
    remove_stale_data(file, beside)
    return beside


def require_place(path: str | os.PathLike[str]) -> None:
    """Raise InputError where `save` could not write: what that says late is better said early."""
    with suppress(_NotYetError), written_whole(Path(path)):
        raise _NotYetError


class _NotYetError(Exception):
    """Nothing is to be written yet."""


def _write_checked(model: onnx.ModelProto, temporary: Path, *, at: Path) -> None:
    """Write the model that the checker finds nothing wrong with."""
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(str(temporary), full_check=True)  # by its path it finds the data
    except Exception as error:
        raise GraphError(
            f"the graph that was built is not valid: {first_line(error)}",
            at=str(at),
            fix="this is a bug in the export: please report it with the model",
        ) from error


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The model's metadata_props."""
    return {entry.key: entry.value for entry in model.metadata_props}


def noted_target(model: onnx.ModelProto) -> Target | None:
    """The target that our export wrote into the file; None where there is no such note."""
    try:
        return get(metadata(model).get("qdq.target", ""))
    except RegistryError:
        return None
