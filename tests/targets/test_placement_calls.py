"""Gates, joins, matrix products and small layers: when a target runs them in integers."""

import pytest
from test_placement import Net, operands

from qdq.targets import get
from qdq.targets.opgraph import Op, OpGraph
from qdq.targets.placement import place

BOTH = pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])


def joining(kind: str, *, float_side: bool = False) -> tuple[Net, int]:
    """Two convolutions (or the model's input for one), joined, and read by a convolution."""
    net = Net()
    left = net.op("relu", net.layer("left", 0))
    right = 0 if float_side else net.op("relu", net.layer("right", 0))
    net.sites["join"] = ["input_0", "input_1", "output"]
    return net, net.layer("head", net.op(kind, left, right, name="join"))


SIDES = {"join.input_0", "join.input_1"}


@BOTH
@pytest.mark.parametrize("float_side", [False, True])
@pytest.mark.parametrize("kind", ["mul", "add"])
def test_one_integer_side_is_enough_for_a_sum_or_a_gate(
    kind: str, float_side: bool, target: str
) -> None:
    net, end = joining(kind, float_side=float_side)
    fused = {"join.input_0"} if float_side else {"join.input_1"}
    on = net.on(target, end) & SIDES
    assert on == SIDES or (target == "tensorrt" and on == SIDES - fused)


@BOTH
@pytest.mark.parametrize("kind", ["mul", "add", "concat"])
def test_without_an_integer_side_it_is_off(kind: str, target: str) -> None:
    net = Net()
    net.sites["join"] = ["input_0", "input_1", "output"]
    end = net.layer("head", net.op(kind, 0, net.op("flip", 0), name="join"))
    assert not net.on(target, end) & SIDES
    assert net.why("join.input_0", target, end) in (
        f"no integer op makes what this {kind} reads (T28, O13)",
        "tensorrt has no integer kernel that pays for concat (O12, O14, T20, T21)",
    )


def test_a_join_has_pairs_for_onnxruntime_and_none_for_tensorrt() -> None:
    net, end = joining("concat")
    assert net.on("tensorrt", end) == operands("left", "right", "head")
    assert net.on("onnxruntime", end) == operands("left", "right", "head") | SIDES | {"head.output"}


def test_a_gate_that_something_float_reads_is_off_for_tensorrt_alone() -> None:
    net, end = joining("mul")
    gated = next(op for op in net.ops if op.name == "join").outputs[0]
    assert not net.on("tensorrt", end, gated) & SIDES
    assert net.on("onnxruntime", end, gated) >= SIDES | {"join.output"}


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_integers_leave_a_chain_of_joins_only_where_all_of_it_is_integer(target: str) -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    for name in ("first", "second"):
        net.sites[name] = ["input_0", "input_1", "output"]
        x = net.op("mul", x, net.op("sigmoid", net.op("mean", x)), name=name)
    sums = {f"{name}.input_{index}" for name in ("first", "second") for index in (0, 1)}
    on = net.on(target, net.op("softmax", x))
    assert on & sums == (sums if target == "onnxruntime" else set())


def attention(order: str = "probabilities first") -> tuple[Net, int]:
    """softmax(q @ k) @ v, or v @ softmax(q @ k) the other way round."""
    net = Net()
    q, k, v = (net.layer(name, 0, "linear") for name in "qkv")
    for name in ("scores", "mixed"):
        net.sites[name] = ["input_0", "input_1", "output"]
    scores = net.op("matmul", q, net.op("transpose", k), name="scores")
    weights = net.op("softmax", net.op("masked_fill", net.op("div", scores)))
    weights = net.op("identity", weights)
    both = (weights, v) if order == "probabilities first" else (v, net.op("transpose", weights))
    return net, net.layer("out", net.op("matmul", *both, name="mixed"), "linear")


@BOTH
@pytest.mark.parametrize("order", ["probabilities first", "value first"])
def test_products_of_an_attention_are_off(order: str, target: str) -> None:
    net, end = attention(order)
    assert net.on(target, end) == operands("q", "k", "v", "out")
    if target == "tensorrt":
        for name in ("scores", "mixed"):
            assert net.why(f"{name}.input_0", target, end) == "a product of an attention (T20)"


def test_another_product_of_two_tensors_is_on_for_tensorrt_alone() -> None:
    net = Net()
    net.sites["product"] = ["input_0", "input_1", "output"]
    a, b = net.layer("a", 0, "linear"), net.layer("b", 0, "linear")
    end = net.layer("last", net.op("matmul", a, b, name="product"), "linear")
    inputs = {"product.input_0", "product.input_1"}
    assert net.on("tensorrt", end) == operands("a", "b", "last") | inputs
    assert net.on("onnxruntime", end) == operands("a", "b", "last")


SMALL = "are too few to gain (T19)"


@pytest.mark.parametrize(
    ("kind", "weight", "groups", "first", "why"),
    [
        ("linear", (16, 16), 1, False, ""),
        ("linear", (10, 64), 1, False, "a 64 x 10 product is too small to gain (T18)"),
        ("linear", (64, 15), 1, False, "a 15 x 64 product is too small to gain (T18)"),
        ("linear", (1, 64), 1, False, "a 64 x 1 product is too small to gain (T18)"),
        ("conv", (16, 16, 3, 3), 1, False, ""),
        ("conv", (64, 3, 7, 7), 1, True, ""),
        ("conv", (64, 3, 7, 7), 1, False, ""),
        ("conv", (8, 3, 3, 3), 1, True, ""),
        ("conv", (8, 3, 3, 3), 1, False, f"3 to 8 channels {SMALL}"),
        ("conv", (7, 3, 3, 3), 1, True, f"3 to 7 channels {SMALL}"),
        ("conv", (64, 8, 3, 5), 1, False, f"8 to 64 channels {SMALL}"),
        ("conv", (33, 7, 3, 3), 1, False, f"7 to 33 channels {SMALL}"),
        ("conv", (64, 1, 3, 3), 64, False, ""),
        ("conv", (64, 1, 1, 1), 64, False, f"1 to 64 channels {SMALL}"),
        ("conv", (60, 1, 3, 3), 60, False, f"1 to 60 channels {SMALL}"),
        ("conv", (), 1, False, ""),
    ],
)
def test_a_target_may_leave_small_products_float(
    kind: str, weight: tuple[int, ...], groups: int, first: bool, why: str
) -> None:
    op = Op("layer", kind, (1,), (2,), weight=weight, groups=groups)
    graph = OpGraph((Op("flip", "flip", (0,), (1,)), op), (2,), (1,) if first else (0,))
    sites = {"layer": ["input", "weight", "output"]}
    decisions = place(sites, graph, get("tensorrt", skip_small=True))
    assert decisions[0].action == ("off" if why else "quantize")
    if why:
        assert {each.why for each in decisions} == {why}
    assert place(sites, graph, get("tensorrt", skip_small=False))[0].action == "quantize"


@BOTH
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_what_is_made_of_constants_alone_stays_float(kind: str, target: str) -> None:
    net, constant = Net(), 7
    made = net.layer("bias", net.layer("hidden", constant, kind), kind)
    end = net.layer("head", net.op("sub", net.layer("first", 0), made))
    assert {site for site in net.on(target, end) if "output" not in site} == operands(
        "first", "head"
    )
    why = "made of constants alone: a runtime computes it once, and in float exactly"
    assert net.why("bias.weight", target, end) == net.why("hidden.input", target, end) == why
