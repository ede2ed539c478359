"""Average pools and transposed convolutions: when a target runs them in integers at all."""

import pytest
from test_placement import Net, operands

NO_MAKER = "no integer op makes what this avg pool reads (T28, O13)"
NO_READER = "something float reads this avg pool, and integers in ask for integers out (T13)"


def pooling(*before: str, after: tuple[str, ...] = (), head: str = "linear") -> tuple[Net, int]:
    """first -> before -> pool -> after -> head; an empty head leaves it out."""
    net = Net()
    x = net.layer("first", 0)
    for kind in before:
        x = net.op(kind, x)
    net.sites["pool"] = ["input"]
    x = net.op("avg_pool", x, name="pool")
    for kind in after:
        x = net.op(kind, x)
    return net, net.layer("head", x, head) if head else x


@pytest.mark.parametrize("before", [(), ("relu",), ("relu6", "max_pool"), ("identity", "reshape")])
@pytest.mark.parametrize("after", [(), ("reshape",), ("relu", "transpose", "max_pool")])
def test_a_pool_between_integer_ops_is_on_and_stands_for_the_pair_behind_its_maker(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    net, end = pooling(*before, after=after)
    for target in ("tensorrt", "onnxruntime"):
        assert net.on(target, end) == operands("first", "head") | {"pool.input"}


@pytest.mark.parametrize("after", [(), ("sigmoid",), ("reshape",)])
def test_a_pool_that_something_float_reads_is_off_for_tensorrt_alone(
    after: tuple[str, ...],
) -> None:
    net, end = pooling("relu", after=after, head="")
    assert net.on("tensorrt", end) == operands("first")
    assert net.why("pool.input", "tensorrt", end) == NO_READER
    assert net.on("onnxruntime", end) == operands("first") | {"pool.input"}


def test_one_float_reader_of_two_is_enough_to_keep_a_pool_float_for_tensorrt() -> None:
    net, end = pooling("relu")
    pooled = next(op for op in net.ops if op.name == "pool").outputs[0]
    other = net.op("sigmoid", pooled)
    assert "pool.input" not in net.on("tensorrt", end, other)
    assert "pool.input" in net.on("onnxruntime", end, other)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_pool_of_floats_is_off(target: str) -> None:
    net, end = pooling("softmax")
    assert "pool.input" not in net.on(target, end)
    assert net.why("pool.input", target, end) == NO_MAKER
    first = Net()
    first.sites["pool"] = ["input"]
    end = first.layer("head", first.op("avg_pool", 0, name="pool"))
    assert not first.on(target, end) & {"pool.input"}
    assert first.why("pool.input", target, end) == NO_MAKER


@pytest.mark.parametrize("between", [("sigmoid",), ("silu",), ("exp", "relu")])
def test_a_pool_behind_an_activation_is_on_for_tensorrt_which_fuses_it_into_its_maker(
    between: tuple[str, ...],
) -> None:
    net, end = pooling(*between)
    assert "pool.input" in net.on("tensorrt", end)
    assert "pool.input" not in net.on("onnxruntime", end)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_pool_behind_a_layer_that_is_switched_off_is_off(target: str) -> None:
    net, end = pooling("relu")
    on = net.on(target, end, floating={"first"})
    assert on == operands("head") | {"first.weight"}


def test_a_pool_that_is_switched_off_counts_as_a_float_reader() -> None:
    net, end = pooling("relu")
    assert "first.output" in net.on("onnxruntime", end, floating={"pool"})
    assert net.why("pool.input", "onnxruntime", end, floating={"pool"}) == (
        "part of this layer is switched off, so it runs float (O26)"
    )


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_pool_at_the_end_of_residual_blocks_reads_the_sum_as_codes(target: str) -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    x = net.op("relu", net.add("add", net.layer("c1", x), x))
    net.sites["pool"] = ["input"]
    end = net.layer("fc", net.op("reshape", net.op("avg_pool", x, name="pool")), "linear")
    on = net.on(target, end)
    assert "pool.input" in on
    assert "add.output" not in on


def test_onnxruntime_computes_a_transposed_convolution_in_float_between_pairs() -> None:
    net = Net()
    x = net.op("relu", net.layer("down", 0))
    end = net.layer("last", net.op("relu", net.layer("up", x, "conv_transpose")))
    assert net.on("tensorrt", end) == operands("down", "up", "last")
    both = {"down.output", "last.output"}
    assert net.on("onnxruntime", end) == operands("down", "last") | both
    assert net.why("up.weight", "onnxruntime", end) == (
        "onnxruntime has no integer kernel that pays for conv_transpose (O12, O14, T20, T21)"
    )
