"""Small Q/DQ files broken in thousands of ways: each is read, or refused in one way."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qdq.errors import GraphError
from qdq.graph import lint
from qdq.graph.files import load

SHAPES = {"x": [1, 2, 4, 4], "y": [1, 3, 4, 4]}
GRIDS = {"in": (0.1, 128), "out": (0.05, 0)}
LARGE = [0, 1, -1, 2, 3, 127, 2**31 - 1, 2**31, -(2**63), 2**63 - 1]


def sound() -> ModelProto:
    """x -> Q -> DQ -> Conv of DQ weights and bias -> Relu -> Q -> DQ -> y, and a branch."""
    generator = np.random.default_rng(0)
    held = {
        "w.codes": generator.integers(-127, 128, (3, 2, 3, 3)).astype(np.int8),
        "w.scale": np.array([0.01, 0.02, 0.03], np.float32),
        "b.codes": np.array([1, -2, 3], np.int32),
        "b.scale": np.array([0.001, 0.002, 0.003], np.float32),
    }
    for name, (scale, point) in GRIDS.items():
        held |= {f"{name}.scale": np.float32(scale), f"{name}.zero_point": np.uint8(point)}
    grid = {name: [f"{name}.scale", f"{name}.zero_point"] for name in GRIDS}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *grid["in"]], ["x.q"], "q0"),
        helper.make_node("DequantizeLinear", ["x.q", *grid["in"]], ["x.f"], "d0"),
        helper.make_node("DequantizeLinear", ["w.codes", "w.scale"], ["w"], "dw", axis=0),
        helper.make_node("DequantizeLinear", ["b.codes", "b.scale"], ["b"], "db", axis=0),
        helper.make_node("Conv", ["x.f", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", *grid["out"]], ["r.q"], "q1"),
        helper.make_node("DequantizeLinear", ["r.q", *grid["out"]], ["y"], "d1"),
    ]
    ends = [helper.make_tensor_value_info(key, TensorProto.FLOAT, size)
            for key, size in SHAPES.items()]  # fmt: skip
    arrays = [numpy_helper.from_array(np.asarray(each), name) for name, each in held.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def bytes_changed(dice: random.Random) -> bytes:
    content = bytearray(sound().SerializeToString())
    for _ in range(dice.choice([1, 1, 1, 3])):
        place = dice.randrange(len(content))
        kind = dice.choice([0, 0, 1, 1, 2, 3])
        if kind == 0:
            content[place] = dice.randrange(256)
        elif kind == 1:
            content[place] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del content[place : place + dice.randint(1, 40)]
        else:
            content[place:place] = content[dice.randrange(len(content)) :][: dice.randint(1, 40)]
        if not content:
            return b""
    return bytes(content[: dice.randrange(len(content))] if dice.random() < 0.1 else content)


def retype(model: ModelProto, dice: random.Random) -> None:
    dice.choice(model.graph.initializer).data_type = dice.choice([0, *range(1, 30), 99, -1])


def resize(model: ModelProto, dice: random.Random) -> None:
    tensor = dice.choice(model.graph.initializer)
    tensor.dims[:] = [dice.choice(LARGE) for _ in range(dice.randint(0, 5))]


def cut(model: ModelProto, dice: random.Random) -> None:
    tensor = dice.choice(model.graph.initializer)
    tensor.raw_data = tensor.raw_data[: dice.randrange(len(tensor.raw_data) + 1)]


def rewire(model: ModelProto, dice: random.Random) -> None:
    """Cycles, missing tensors, two makers of one."""
    node = dice.choice(model.graph.node)
    names = dice.choice([node.input, node.output])
    every = [name for each in model.graph.node for name in (*each.input, *each.output)]
    names[dice.randrange(len(names))] = dice.choice([*every, "", "nowhere"])


def shuffle(model: ModelProto, dice: random.Random) -> None:
    nodes = list(model.graph.node)
    dice.shuffle(nodes)
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def rename_op(model: ModelProto, dice: random.Random) -> None:
    node = dice.choice(model.graph.node)
    node.op_type = dice.choice(
        ["Gemm", "MatMul", "If", "Loop", "Resize", "Pad", "Concat", "No", ""]
    )


def reattribute(model: ModelProto, dice: random.Random) -> None:
    node = dice.choice(model.graph.node)
    name = dice.choice(["axis", "pads", "group", "perm", "to", "strides", "block_size"])
    value: Any = dice.choice([dice.choice(LARGE), [dice.choice(LARGE)] * dice.randint(1, 5), "s"])
    node.attribute.append(helper.make_attribute(name, value))


def lose(model: ModelProto, dice: random.Random) -> None:
    graph = model.graph
    held = dice.choice([graph.node, graph.initializer, graph.input, graph.output])
    del held[dice.randrange(len(held))]


def reopset(model: ModelProto, dice: random.Random) -> None:
    model.opset_import[0].version = dice.choice([*LARGE, 9, 12, 17, 21, 30])


def elsewhere(model: ModelProto, dice: random.Random) -> None:
    tensor = dice.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    for key in ("location", "offset", "length"):
        value = dice.choice(["m.onnx", "../m.onnx", "/dev/zero", ".", "", "1", "-1", str(2**62)])
        tensor.external_data.add(key=key, value=value)


def nest(model: ModelProto, dice: random.Random) -> None:
    """A graph within a node within a graph, and so on."""
    graph = model.graph
    for _ in range(dice.choice([1, 5, 20])):  # protobuf reads 100 messages in each other at most
        node = helper.make_node("If", ["x"], ["n"], then_branch=graph)
        graph = helper.make_graph([node], "deep", [], list(model.graph.output))
    model.graph.CopyFrom(graph)


CHANGES: list[Callable[[ModelProto, random.Random], None]] = [
    retype, resize, cut, rewire, shuffle, rename_op, reattribute, lose, reopset, elsewhere, nest,
]  # fmt: skip


def broken(seed: int) -> bytes:
    dice = random.Random(seed)
    if seed % 2:
        return bytes_changed(dice)
    model = sound()
    for _ in range(dice.choice([1, 1, 3])):
        try:
            dice.choice(CHANGES)(model, dice)
        except (ValueError, IndexError, TypeError, DecodeError):  # what an earlier change took away
            continue
    return model.SerializeToString()


def survive(path: Path, seeds: range) -> int:
    """How many of the broken files were read; all others were refused by a GraphError."""
    before, good = set(path.parent.iterdir()), 0
    for seed in seeds:
        path.write_bytes(broken(seed))
        try:
            load(path)
            lint(path, "onnxruntime")
        except GraphError:
            continue
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        good += 1
    assert set(path.parent.iterdir()) == before | {path}
    return good


def test_the_file_is_sound_before_it_is_broken(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(sound().SerializeToString())
    assert load(tmp_path / "m.onnx") == sound()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scales that became infinite or zero
def test_a_thousand_broken_files_are_read_or_refused(tmp_path: Path) -> None:
    read = survive(tmp_path / "m.onnx", range(1000))
    assert 100 < read < 900  # some changes break nothing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ten_thousand_broken_files_are_read_or_refused(tmp_path: Path) -> None:
    survive(tmp_path / "m.onnx", range(1000, 10_000))
