"""Single nodes on random codes: what onnxruntime computes, and what its simulation does."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from qdq.graph.simulation import execution  # noqa: F401 - all kernels register
from qdq.graph.simulation.kernels import KERNELS

Array: TypeAlias = NDArray[Any]
MS = "com.microsoft"
CODES = (np.uint8, np.int8)

# ARM has kernels of its own for sums and means, in fixed point.
x86_kernels = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="simulates the kernels for x86"
)


def _kernels_hold_full_range() -> bool:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return platform.machine() not in ("x86_64", "AMD64") or "vnni" in flags


# Without VNNI, x86 kernels saturate where two products of u8 and s8 meet (O24).
integer_kernels = pytest.mark.skipif(not _kernels_hold_full_range(), reason="needs VNNI (O24)")


class Draw:
    """Random operands of one type of codes.

    Weights stay within 63, so that x86 without VNNI does not saturate either.
    """

    def __init__(self, seed: int, kind: Any) -> None:
        self._rng = np.random.default_rng(seed)
        self.kind = kind

    def codes(self, *shape: int) -> Array:
        info = np.iinfo(self.kind)
        return self._rng.integers(info.min, info.max + 1, shape).astype(self.kind)

    def zero(self) -> Array:
        return np.asarray(self.codes()).reshape(())

    def scale(self, largest: float = 1.0, *shape: int) -> Array:
        values = largest * np.exp(self._rng.uniform(-4, 0, shape))
        return np.asarray(values, np.float32)

    def weights(self, *shape: int) -> Array:
        return self._rng.integers(-63, 64, shape).astype(np.int8)

    def bias(self, *shape: int) -> Array:
        return self._rng.integers(-9999, 9999, shape).astype(np.int32)

    def floats(self, *shape: int) -> Array:
        return self._rng.standard_normal(shape).astype(np.float32)


def run(op: str, inputs: Sequence[Any], domain: str = "", version: int = 17, **attrs: Any) -> Array:
    """Unoptimized onnxruntime on one node; everything but the first input is constant."""
    names = ["" if each is None else f"i{index}" for index, each in enumerate(inputs)]
    arrays = {n: np.asarray(each) for n, each in zip(names, inputs, strict=True) if n}
    fed = [name for name in ("i0", "i3") if name in arrays and op in ("QLinearAdd", "QLinearMul")]
    fed = fed or ["i2"] * (op == "QLinearConcat") or ["i0"]
    ends = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(arrays[name].dtype), arrays[name].shape
        )
        for name in fed
    ]
    held = [numpy_helper.from_array(each, n) for n, each in arrays.items() if n not in fed]
    node = helper.make_node(op, names, ["y"], domain=domain, **attrs)
    graph = helper.make_graph([node], "g", ends, [onnx.ValueInfoProto(name="y")], held)
    imports = [helper.make_opsetid("", version), helper.make_opsetid(MS, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: Array = session.run(None, {name: arrays[name] for name in fed})[0]
    return found


def simulated(op: str, inputs: Sequence[Any], domain: str = "", **attrs: Any) -> Array | None:
    """The kernel's own answer; text attributes are bytes, as a file holds them."""
    told = {name: each.encode() if isinstance(each, str) else each for name, each in attrs.items()}
    given = [None if each is None else np.asarray(each) for each in inputs]
    return KERNELS[domain, op](told, given)


def assert_same(
    op: str, make: Callable[[Draw], Sequence[Any]], kind: Any, *, seeds: int = 8, **attrs: Any
) -> None:
    """Bit for bit the same, for several draws of the operands."""
    compared = 0
    for seed in range(seeds):
        inputs = make(Draw(seed, kind))
        expected, found = run(op, inputs, **attrs), simulated(op, inputs, **attrs)
        assert found is not None, f"{op} is not simulated"
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=f"{op}, seed {seed}")
        compared += expected.size
    assert compared > 100
