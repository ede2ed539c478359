"""Tensors beside the ONNX file: one data file, named after what it holds, read with suspicion."""

import glob
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from qdq.errors import GraphError
from qdq.graph.edges import Array
from qdq.records.base import written_whole

MOST_INSIDE = 2**31 - 2**26  # protobuf holds less than 2 GiB, and the graph needs room too
_LEAST_OUTSIDE = 1024  # bytes; constants of sizes stay where shape inference finds them
_PAGE = 4096  # what runtimes map into memory begins on a page
_NUMBER = re.compile(r"[0-9]{1,18}")
_PACKED = {"INT4": 4, "FLOAT4E2M1": 4, "INT2": 2}  # bits of types with several values in a byte
_DIGEST = re.compile(r"\.[0-9a-f]{16}\.data")


def take_out(graph: gs.Graph) -> dict[str, Array]:
    """Take the values of every larger constant out of the graph, which knows only their shapes.

    So nothing that is done to its protobuf form copies weights or meets protobuf's 2 GB.

    Returns:
        Name -> values, for `put_back` or `write_data`.
    """
    data = {}
    for tensor in [each for each in graph.tensors().values() if isinstance(each, gs.Constant)]:
        if tensor.values.nbytes >= _LEAST_OUTSIDE:
            data[tensor.name] = np.ascontiguousarray(tensor.values)
            tensor.values = LazyValues(without_data(tensor.name, data[tensor.name]))
    return data


def without_data(name: str, values: Array) -> TensorProto:
    """A tensor of this name, type and shape whose data is somewhere else."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return TensorProto(
        name=name, dims=values.shape, data_type=kind, data_location=TensorProto.EXTERNAL
    )


def put_back(model: ModelProto, data: Mapping[str, Array]) -> None:
    """Put what `take_out` took into the model, in place."""
    for tensor in (each for each in model.graph.initializer if each.name in data):
        tensor.raw_data = data[tensor.name].tobytes()
        tensor.ClearField("data_location")


def too_large(data: Mapping[str, Array]) -> bool:
    """Whether protobuf cannot hold all of this in one file."""
    return sum(each.nbytes for each in data.values()) > MOST_INSIDE


def place_data(model: ModelProto, path: Path, data: Mapping[str, Array]) -> Path:
    """Say in the model where each tensor will be.

    Args:
        model: of the graph after `take_out`.
        path: of the model.
        data: what `take_out` gave.

    Returns:
        The data file to write: `<name of the model>.<first 16 digits of the SHA-256>.data`, so that
        a model that stands at `path` already keeps its own until it is replaced.
    """
    digest = hashlib.sha256()
    for values in data.values():
        digest.update(_bytes(values))
    file = path.with_name(f"{path.name}.{digest.hexdigest()[:16]}.data")
    offsets = _offsets(data)
    for tensor in (each for each in model.graph.initializer if each.name in data):
        del tensor.external_data[:]
        place = {"location": file.name, "offset": offsets[tensor.name]}
        for key, value in {**place, "length": data[tensor.name].nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
    return file


def write_data(file: Path, data: Mapping[str, Array]) -> None:
    """Write the data file, whole or not at all."""
    offsets = _offsets(data)
    with written_whole(file) as temporary, temporary.open("wb") as opened:
        for name, values in data.items():
            opened.seek(offsets[name])
            opened.write(_bytes(values))


def remove_stale_data(path: Path, kept: Path | None) -> None:
    """Remove data files that `write_data` wrote for earlier models at `path`, all but one."""
    for file in path.parent.glob(f"{glob.escape(path.name)}.*.data"):
        if _DIGEST.fullmatch(file.name[len(path.name) :]) and file != kept:
            file.unlink(missing_ok=True)


def read_data(model: ModelProto, path: Path) -> None:
    """Read the tensors that lie beside the file into the model, in place.

    Args:
        model: whose data files are known to lie in the folder of `path`.
        path: of the model.

    Raises:
        GraphError: a tensor is not in its data file whole, or they claim more than the files hold.
    """
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    places = [_place(tensor, path) for tensor in outside]
    held = sum(file.stat().st_size for file in {file for file, _, _ in places})
    claimed = sum(length for _, _, length in places)
    if claimed > 2 * held:  # tied tensors may share their bytes
        raise GraphError(
            f"the tensors claim {claimed:,} bytes of data files that hold {held:,}",
            at=str(path),
            fix="save the model anew, each tensor with data of its own",
        )
    for tensor, (file, offset, length) in zip(outside, places, strict=True):
        with file.open("rb") as opened:
            opened.seek(offset)
            tensor.raw_data = opened.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _place(tensor: TensorProto, path: Path) -> tuple[Path, int, int]:
    """(file, offset, length) of a tensor's bytes, all of them there."""
    entries = {each.key: each.value for each in tensor.external_data}
    file, wanted = path.absolute().parent / entries["location"], _bytes_of(tensor)
    offset, length = entries.get("offset", "0"), entries.get("length", str(wanted))
    if wanted is None or length != str(wanted) or not _NUMBER.fullmatch(offset):
        raise GraphError(
            f"the data of {tensor.name!r} begins at byte {offset!r} and has {length!r} bytes, and "
            f"its shape asks for {wanted}",
            at=str(path),
            fix="save the model anew: its shapes and its data do not fit",
        )
    size, end = file.stat().st_size, int(offset) + wanted
    if end > size:
        raise GraphError(
            f"the data of {tensor.name!r} ends at byte {end:,}, and {file.name!r} has {size:,}",
            at=str(path),
            fix="copy the data file anew: it was cut off",
        )
    return file, int(offset), wanted


def _bytes(values: Array) -> memoryview:
    return values.view(np.uint8).data


def _offsets(data: Mapping[str, Array]) -> dict[str, int]:
    """Where each tensor begins, in the order they have."""
    offsets, end = {}, 0
    for name, values in data.items():
        offsets[name] = -(-end // _PAGE) * _PAGE
        end = offsets[name] + values.nbytes
    return offsets


def _bytes_of(tensor: TensorProto) -> int | None:
    """Bytes that its shape asks for; None for a type that has no data of its own, or no shape."""
    known = onnx.helper.get_all_tensor_dtypes()
    if tensor.data_type not in known or tensor.data_type == TensorProto.STRING:
        return None
    if any(size < 0 for size in tensor.dims):
        return None
    name = TensorProto.DataType.Name(tensor.data_type)
    packed = next((bits for ending, bits in _PACKED.items() if name.endswith(ending)), None)
    width = packed or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    bits: int = math.prod(tensor.dims) * width
    return -(-bits // 8)
