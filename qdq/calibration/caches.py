"""TensorRT's calibration caches: one range per tensor of an ONNX file, as text.

    TRT-8601-EntropyCalibration2
    input: 3caa1fba
    /conv1/Conv_output_0: 3d1d2a33

The first line holds TensorRT's version and the calibrator; after it stand, per tensor, its name
and the 32 bits of the float32 scale, amax / 127, as hexadecimal digits. (TensorRT's samples,
sampleINT8, "Calibration file".)
"""

import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from qdq.errors import GraphError, InputError
from qdq.graph.files import load
from qdq.records.base import written_whole

_LARGEST = 64 << 20  # bytes
_STEPS = 127  # of the scale from 0 to amax
_HEADER = re.compile(r"TRT-\w+-\w+")
_BITS = re.compile(r"[0-9a-fA-F]{1,8}")
_VERSION = re.compile(r"\d{1,3}\.\d{1,2}\.\d{1,2}")
_CALIBRATORS = ("EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration")


def read_cache(path: str | os.PathLike[str]) -> dict[str, float]:
    """Tensor of the ONNX file -> amax, the largest |x| of its range, in the unit of x.

    Raises:
        InputError: no such file, no calibration cache, a tensor that is there twice, or a range
            that is negative or not finite.
    """
    amaxes: dict[str, float] = {}
    header, *lines = _lines(path)
    if not _HEADER.fullmatch(header.strip()):
        raise _broken(f"its first line is {header[:40]!r}, not TRT-8601-EntropyCalibration2", path)
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        name, _, bits = (part.strip() for part in line.rpartition(":"))
        if not (name and _BITS.fullmatch(bits)):
            raise _broken(f"line {number} is {line[:40]!r}, not `tensor: hex digits`", path)
        scale = _float32(bits)
        if not (math.isfinite(scale) and scale >= 0):
            raise _broken(f"line {number} gives {name!r} the scale {scale}", path)
        if name in amaxes:
            raise _broken(f"line {number} names {name!r} again", path)
        amaxes[name] = scale * _STEPS
    return amaxes


def write_cache(
    amaxes: Mapping[str, float],
    path: str | os.PathLike[str],
    *,
    tensorrt: str = "8.6.1",
    calibrator: str = "EntropyCalibration2",
) -> None:
    """Write the ranges as TensorRT reads them, in the order given, whole or not at all.

    Args:
        amaxes: tensor of the ONNX file -> largest |x| of its range; see `amaxes_of`.
        path: where to; its folder exists.
        tensorrt: version that will read it: another one ignores the file, and calibrates itself.
        calibrator: kind of calibrator that will read it; `trtexec --calib` is the default's.

    Raises:
        InputError: no range, a name or range that has no place in a cache, another form of
            version, an unknown calibrator, or a file that cannot be written.
    """
    if calibrator not in _CALIBRATORS:
        raise InputError(
            f"TensorRT has no calibrator {calibrator!r}", fix=f"one of {', '.join(_CALIBRATORS)}"
        )
    if not amaxes:
        raise InputError("there are no ranges to write", fix="pass at least one tensor's amax")
    lines = [f"TRT-{_number(tensorrt)}-{calibrator}"]
    for name, amax in amaxes.items():
        line = f"{name}: {_bits(name, amax)}"
        if name != name.strip() or not name or len(line.splitlines()) > 1:
            raise InputError(f"a cache cannot hold the name {name!r}", fix="rename the tensor")
        lines.append(line)
    with written_whole(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def amaxes_of(path: str | os.PathLike[str]) -> dict[str, float]:
    """Tensor -> amax of what a file written for TensorRT quantizes, in the order of its nodes.

    The names are those of the tensors before their QuantizeLinear, as they are in the float model
    exported with the same names of inputs.

    Args:
        path: an ONNX file, from `qdq.export_onnx(..., target="tensorrt")`.

    Raises:
        GraphError: no ONNX file, nothing quantized, a scale that is not stored, or codes other
            than int8 with zero point 0.
    """
    model = load(path)
    stored = {each.name: each for each in model.graph.initializer}
    amaxes: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in stored:
            continue
        name, amax = node.input[0], _scale(node, stored, path) * _STEPS
        amaxes[name] = max(amax, amaxes.get(name, 0.0))
    if not amaxes:
        raise GraphError(
            "nothing is quantized in this file",
            at=str(path),
            fix='write it with qdq.export_onnx(model, inputs, path, target="tensorrt")',
        )
    return amaxes


def _scale(
    node: NodeProto, stored: Mapping[str, TensorProto], path: str | os.PathLike[str]
) -> float:
    """The one scale of a QuantizeLinear, symmetric in int8."""
    parts = [stored.get(name) for name in node.input[1:]]
    arrays = [None if part is None else numpy_helper.to_array(part) for part in parts]
    if len(arrays) == 2 and all(each is not None and each.size == 1 for each in arrays):
        scale, zero_point = (each.reshape(())[()] for each in arrays if each is not None)
        if zero_point.dtype == np.int8 and zero_point == 0:
            return float(scale)
    raise GraphError(
        "this is not quantized as a calibration cache can say: int8, zero point 0, one scale",
        at=f"{path}: {node.name}",
        fix='write the file with qdq.export_onnx(model, inputs, path, target="tensorrt")',
    )


def _lines(path: str | os.PathLike[str]) -> list[str]:
    file = Path(path)
    if not file.is_file():
        raise InputError("there is no such file", at=str(path), fix="check the path")
    if file.stat().st_size > _LARGEST:
        raise _broken("it is larger than 64 MiB", path)
    try:
        return file.read_text("utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(f"cannot read it as text: {error}", path) from error


def _broken(why: str, path: str | os.PathLike[str]) -> InputError:
    return InputError(
        f"this is no calibration cache of TensorRT: {why}",
        at=str(path),
        fix="pass what writeCalibrationCache of a TensorRT calibrator, or write_cache, wrote",
    )


def _float32(bits: str) -> float:
    return float(struct.unpack(">f", bytes.fromhex(bits.zfill(8)))[0])


def _bits(name: str, amax: float) -> str:
    """The float32 nearest to amax / 127, as hexadecimal digits, the sign and exponent first."""
    try:
        if not (math.isfinite(amax) and amax >= 0):
            raise OverflowError
        return struct.pack(">f", amax / _STEPS).hex()
    except OverflowError as error:
        raise InputError(
            f"{name!r} has the range {amax}", fix="pass a finite amax, 0 or more"
        ) from error


def _number(tensorrt: str) -> int:
    """The version as TensorRT's NvInferVersion.h counts it: 8.6.1 -> 8601, 10.3.0 -> 100300."""
    if not _VERSION.fullmatch(tensorrt):
        raise InputError(
            f"{tensorrt!r} is no version of TensorRT",
            fix='write major, minor and patch: tensorrt="10.3.0"',
        )
    major, minor, patch = (int(part) for part in tensorrt.split("."))
    return major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch
