"""Splits, slices and resizes between integer ops."""

import pytest
from test_placement import Net, operands

from qdq.targets.opgraph import Op

BOTH = pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])


def parted(net: Net, x: int, kind: str) -> tuple[int, int]:
    """Two parts of a tensor: of one split, or two slices."""
    if kind == "slice":
        return net.op(kind, x), net.op(kind, x)
    net.ops.append(Op(f"split_{len(net.ops)}", kind, (x,), (900, 901)))
    return 900, 901


PARTS = pytest.mark.parametrize("kind", ["split", "slice"])
SUM = {"join.input_0", "join.input_1"}


@BOTH
@PARTS
@pytest.mark.parametrize("join", ["add", "mul"])
def test_the_parts_of_what_an_integer_op_makes_are_made_in_integers(
    join: str, kind: str, target: str
) -> None:
    net = Net()
    left, right = parted(net, net.op("relu", net.layer("stem", 0)), kind)
    net.sites["join"] = ["input_0", "input_1", "output"]
    end = net.layer("head", net.op(join, net.op("exp", left), right, name="join"))
    assert net.on(target, end) & SUM == SUM


@BOTH
@PARTS
def test_the_parts_of_something_float_are_not(kind: str, target: str) -> None:
    net = Net()
    left, right = parted(net, net.op("softmax", net.layer("stem", 0)), kind)
    net.sites["join"] = ["input_0", "input_1", "output"]
    end = net.layer("head", net.op("add", left, right, name="join"))
    assert not net.on(target, end) & SUM
    assert net.why("join.input_0", target, end) == (
        "no integer op makes what this add reads (T28, O13)"
    )


@PARTS
def test_onnxruntime_has_a_pair_in_front_of_a_split_since_each_part_has_a_range_of_its_own(
    kind: str,
) -> None:
    net = Net()
    left, right = parted(net, net.op("relu", net.layer("stem", 0)), kind)
    ends = net.layer("left", left, "linear"), net.layer("right", right, "linear")
    layers = operands("stem", "left", "right")
    assert net.on("onnxruntime", *ends) == layers | {"stem.output"}
    assert net.on("tensorrt", *ends) == layers


def test_a_shuffling_block_keeps_both_its_branches_in_integers() -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    for name in ("first", "second"):
        left, right = net.op("slice", x), net.op("slice", x)
        right = net.op("relu", net.layer(name, right))
        net.sites[f"{name}.join"] = ["input_0", "input_1", "output"]
        x = net.op("concat", left, right, name=f"{name}.join")
        x = net.op("reshape", net.op("transpose", net.op("reshape", x)))
    end = net.layer("head", x, "linear")
    layers = operands("stem", "first", "second", "head")
    joins = {f"{name}.join.input_{index}" for name in ("first", "second") for index in (0, 1)}
    assert net.on("onnxruntime", end) == layers | joins | {"stem.output", "first.join.output"}
    assert net.on("tensorrt", end) == layers


def resized(*, maker: str = "relu", reader: str = "conv") -> tuple[Net, int]:
    """first -> maker -> resize -> reader."""
    net = Net()
    x = net.op(maker, net.layer("first", 0))
    net.sites["up"] = ["input_0"]
    x = net.op("resize", x, name="up")
    return net, net.layer("last", x) if reader == "conv" else net.op(reader, x)


def test_a_resize_that_mixes_values_is_in_integers_for_tensorrt_alone() -> None:
    net, end = resized()
    layers = operands("first", "last")
    assert net.on("tensorrt", end) == layers | {"up.input_0"}
    assert net.on("onnxruntime", end) == layers | {"first.output", "last.output"}
    assert net.why("up.input_0", "onnxruntime", end) == (
        "onnxruntime has no integer kernel that pays for resize (O12, O14, T20, T21)"
    )


@pytest.mark.parametrize(
    ("maker", "reader", "why"),
    [
        ("softmax", "conv", "no integer op makes what this resize reads (T28, O13)"),
        (
            "relu",
            "softmax",
            "something float reads this resize, and integers in ask for integers out (T13)",
        ),
    ],
)
def test_it_needs_an_integer_op_on_either_side(maker: str, reader: str, why: str) -> None:
    net, end = resized(maker=maker, reader=reader)
    assert "up.input_0" not in net.on("tensorrt", end)
    assert net.why("up.input_0", "tensorrt", end) == why


def test_one_that_gives_values_as_they_are_needs_no_pair_of_its_own() -> None:
    net = Net()
    x = net.op("resize_nearest", net.op("relu", net.layer("first", 0)))
    end = net.layer("last", x, "linear")
    for target in ("tensorrt", "onnxruntime"):
        assert net.on(target, end) == operands("first", "last")
