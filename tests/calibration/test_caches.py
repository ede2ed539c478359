"""TensorRT's calibration caches: the documented text, from and to the ranges of an ONNX file."""

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

import qdq
from qdq.calibration.caches import amaxes_of, read_cache, write_cache
from qdq.errors import GraphError, InputError

# As TensorRT 7 itself wrote it for a network with blanks and colons in its names.
BY_TENSORRT = """TRT-7000-EntropyCalibration2
data: 3c008912
(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f
scope/conv:0: 3f800000
dead: 0
"""


def test_a_cache_of_tensorrts_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(BY_TENSORRT)
    scale = struct.unpack(">f", bytes.fromhex("3c008912"))[0]
    assert read_cache(tmp_path / "c") == {
        "data": scale * 127,
        "(Unnamed Layer* 4) [Fully Connected]_output": pytest.approx(0.0560542 * 127, rel=1e-5),
        "scope/conv:0": 127.0,
        "dead": 0.0,
    }


def test_what_is_written_is_the_documented_text(tmp_path: Path) -> None:
    write_cache({"b": 127.0, "a": 254.0, "c": 0.0}, tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (
        b"TRT-8601-EntropyCalibration2\nb: 3f800000\na: 40000000\nc: 00000000\n"
    )


@pytest.mark.parametrize(
    ("tensorrt", "number"), [("8.6.1", "8601"), ("7.0.0", "7000"), ("10.3.0", "100300")]
)
def test_the_version_is_counted_as_tensorrt_counts_it(
    tensorrt: str, number: str, tmp_path: Path
) -> None:
    write_cache({"a": 1.0}, tmp_path / "c", tensorrt=tensorrt, calibrator="MinMaxCalibration")
    assert (tmp_path / "c").read_text().startswith(f"TRT-{number}-MinMaxCalibration\n")


@given(amax=st.floats(0, 2.0**126, width=32))
@settings(max_examples=50, deadline=None)
def test_a_range_comes_back_to_the_bit_of_its_float32_scale(
    amax: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("caches") / "c"
    write_cache({"a": amax}, path)
    found = read_cache(path)["a"]
    assert np.float32(found / 127) == np.float32(amax) / np.float32(127)
    write_cache({"a": found}, path)
    assert read_cache(path)["a"] == found


CACHE = "TRT-8601-EntropyCalibration2\n"
BROKEN = {
    "nothing": ("", "its first line is ''"),
    "no header": ("a: 3f800000\n", "its first line is 'a: 3f800000'"),
    "a very long line": ("x" * 99_999, f"its first line is '{'x' * 40}'"),
    "no digits": (CACHE + "a:\n", "line 2 is 'a:', not `tensor: hex digits`"),
    "no name": (CACHE + ": 3f800000\n", "line 2 is ': 3f800000'"),
    "no colon": (CACHE + "a: 1\na 3f800000\n", "line 3 is 'a 3f800000'"),
    "no hex": (CACHE + "a: 3f80000g\n", "line 2 is 'a: 3f80000g'"),
    "nine digits": (CACHE + "a: 3f8000000\n", "line 2 is 'a: 3f8000000'"),
    "other digits": (CACHE + "a: ٣\n", "line 2 is 'a: ٣'"),
    "infinity": (CACHE + "a: 7f800000\n", "line 2 gives 'a' the scale inf"),
    "NaN": (CACHE + "a: 7fc00000\n", "line 2 gives 'a' the scale nan"),
    "negative": (CACHE + "a: bf800000\n", "line 2 gives 'a' the scale -1.0"),
    "twice": (CACHE + "a: 3f800000\n\na: 3f800000\n", "line 4 names 'a' again"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_cache_is_refused_by_file_and_line(case: str, tmp_path: Path) -> None:
    text, why = BROKEN[case]
    (tmp_path / "c").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_cache(tmp_path / "c")
    assert caught.value.what.startswith(f"this is no calibration cache of TensorRT: {why}")
    assert caught.value.at == str(tmp_path / "c")
    assert "pass what writeCalibrationCache" in caught.value.fix


def test_files_that_cannot_be_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"TRT-1-A\n\xff\xfe")
    with pytest.raises(InputError, match="cannot read it as text"):
        read_cache(tmp_path / "bytes")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(InputError, match="it is larger than 64 MiB"):
        read_cache(tmp_path / "huge")
    with pytest.raises(InputError, match="there is no such file"):
        read_cache(tmp_path / "none")


@pytest.mark.parametrize(
    ("amaxes", "options", "said"),
    [
        ({}, {}, "there are no ranges to write"),
        ({"a\nb": 1.0}, {}, r"a cache cannot hold the name 'a\\nb'"),
        ({" a": 1.0}, {}, "a cache cannot hold the name ' a'"),
        ({"": 1.0}, {}, "a cache cannot hold the name ''"),
        ({"a": -1.0}, {}, "'a' has the range -1.0"),
        ({"a": float("nan")}, {}, "'a' has the range nan"),
        ({"a": 1e41}, {}, r"'a' has the range 1e\+41"),
        ({"a": 1.0}, {"tensorrt": "8.6"}, "'8.6' is no version of TensorRT"),
        ({"a": 1.0}, {"calibrator": "Entropy"}, "TensorRT has no calibrator 'Entropy'"),
    ],
)
def test_what_no_cache_can_hold_is_refused_and_nothing_written(
    amaxes: dict[str, float], options: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        write_cache(amaxes, tmp_path / "c", **options)
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


class Net(nn.Module):
    """A conv whose result is read twice, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.head((self.left(x) + x).mean((2, 3)))  # type: ignore[no-any-return]


def exported(path: Path, target: str) -> nn.Module:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 1, 8, 8)
    qdq.insert(model, x, target=target)
    qdq.calibrate(model, [x], method="max", progress=False)
    qdq.export_onnx(model, x, path, input_names=["image"])
    return model


def test_the_ranges_of_an_export_have_the_names_of_the_tensors_they_quantize(
    tmp_path: Path,
) -> None:
    model = exported(tmp_path / "m.onnx", "tensorrt")
    amaxes = amaxes_of(tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    made = {name for node in graph.node for name in node.output} | {"image"}
    assert set(amaxes) <= made
    ranges = {
        site: max(-float(q.amin), float(q.amax))  # type: ignore[arg-type]
        for site, q in qdq.quantizers(model).items()
        if q.amin is not None and q.on and q.amin.dim() == 0
    }
    assert amaxes["image"] == pytest.approx(ranges["conv.input"], rel=1e-6)
    assert sorted(set(amaxes.values())) == pytest.approx(sorted(set(ranges.values())), rel=1e-6)
    write_cache(amaxes, tmp_path / "c")
    assert read_cache(tmp_path / "c") == amaxes


def quantizing(path: Path, *, scale: float = 2.0, pairs: int = 2, zero_point: int = 0) -> None:
    """x quantized `pairs` times, each time with twice the scale."""
    nodes, stored = [], [helper.make_tensor("zero", TensorProto.INT8, [], [zero_point])]
    for index in range(pairs):
        stored.append(helper.make_tensor(f"s{index}", TensorProto.FLOAT, [], [scale * 2**index]))
        grid = [f"s{index}", "zero"]
        nodes.append(helper.make_node("QuantizeLinear", ["x", *grid], [f"q{index}"], name="Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", *grid], [f"y{index}"]))
    nodes.append(helper.make_node("Neg", ["y0" if pairs else "x"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)


def test_a_tensor_quantized_twice_keeps_its_larger_range(tmp_path: Path) -> None:
    quantizing(tmp_path / "m.onnx")
    assert amaxes_of(tmp_path / "m.onnx") == {"x": 4.0 * 127}


def test_files_that_no_cache_can_stand_for_are_refused(tmp_path: Path) -> None:
    exported(tmp_path / "ort.onnx", "onnxruntime")
    quantizing(tmp_path / "shifted.onnx", zero_point=3)
    for name in ("ort.onnx", "shifted.onnx"):
        with pytest.raises(GraphError) as caught:
            amaxes_of(tmp_path / name)
        assert caught.value.what == (
            "this is not quantized as a calibration cache can say: int8, zero point 0, one scale"
        )
        assert caught.value.at.startswith(f"{tmp_path / name}: ")
        assert 'target="tensorrt"' in caught.value.fix
    quantizing(tmp_path / "float.onnx", pairs=0)
    with pytest.raises(GraphError, match="nothing is quantized in this file"):
        amaxes_of(tmp_path / "float.onnx")
    with pytest.raises(GraphError, match="there is no such ONNX file"):
        amaxes_of(tmp_path / "none.onnx")
