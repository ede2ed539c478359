"""Which sites each target switches on, on op graphs written by hand."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdq.targets import get
from qdq.targets.opgraph import Op, OpGraph
from qdq.targets.placement import place, region_end

LAYER, ADD, SHARED = (
    ["input", "weight", "output"],
    ["input_0", "input_1", "output"],
    ["input", "output"],
)


class Net:
    """An op graph that is written like a forward; tensors are numbers, 0 the model's input."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.sites: dict[str, list[str]] = {}

    def op(self, kind: str, *inputs: int, name: str = "") -> int:
        result = 100 + len(self.ops)
        self.ops.append(Op(name or f"{kind}_{len(self.ops)}", kind, inputs, (result,)))
        return result

    def layer(self, name: str, x: int, kind: str = "conv") -> int:
        self.sites[name] = LAYER
        return self.op(kind, x, name=name)

    def add(self, name: str, *inputs: int, shared: bool = False) -> int:
        own = [f"input_{index}" for index in range(len(inputs))] + ["output"]
        self.sites[name] = SHARED if shared else own
        return self.op("add", *inputs, name=name)

    def on(self, target: str, *outputs: int, floating: Any = ()) -> set[str]:
        """Names of the sites that are switched on."""
        graph = OpGraph(tuple(self.ops), outputs, (0,))
        decisions = place(self.sites, graph, get(target), floating=floating)
        wanted = [f"{name}.{role}" for name, roles in self.sites.items() for role in roles]
        assert [each.name for each in decisions] == wanted
        assert {each.action for each in decisions} <= {"quantize", "off"}
        return {each.name for each in decisions if each.action == "quantize"}

    def why(self, site: str, target: str, *outputs: int, floating: Any = ()) -> str:
        graph = OpGraph(tuple(self.ops), outputs, (0,))
        decisions = place(self.sites, graph, get(target), floating=floating)
        return next(each.why for each in decisions if each.name == site)


def operands(*layers: str) -> set[str]:
    return {f"{layer}.{role}" for layer in layers for role in ("input", "weight")}


def chain(*between: str, last: str = "conv") -> tuple[Net, int]:
    """first -> between -> second, the only output."""
    net = Net()
    x = net.layer("first", 0)
    for kind in between:
        x = net.op(kind, x)
    return net, net.layer("second", x, last)


@pytest.mark.parametrize(
    "between",
    [
        (),
        ("relu",),
        ("relu6",),
        ("identity", "relu"),
        ("relu", "max_pool"),
        ("relu", "max_pool", "max_pool", "reshape"),
        ("transpose",),
    ],
)
def test_a_conv_whose_result_reaches_the_next_as_codes_needs_no_pair_behind_it(
    between: tuple[str, ...],
) -> None:
    net, end = chain(*between)
    assert net.on("onnxruntime", end) == operands("first", "second") | {"second.output"}
    assert net.why("first.output", "onnxruntime", end) == (
        "every reader of this tensor quantizes it"
    )


@pytest.mark.parametrize(
    "between", [("avg_pool",), ("relu", "avg_pool"), ("sigmoid",), ("relu", "max_pool", "sigmoid")]
)
def test_a_conv_that_something_float_reads_gets_a_pair_behind_it(between: tuple[str, ...]) -> None:
    net, end = chain(*between)
    both = {"first.output", "second.output"}
    assert net.on("onnxruntime", end) == operands("first", "second") | both
    assert net.why("first.output", "onnxruntime", end) == (
        "something float reads it, and without a pair the op would run float (O02, O09)"
    )


@pytest.mark.parametrize("between", [(), ("relu",), ("relu", "max_pool"), ("relu", "avg_pool")])
def test_tensorrt_has_pairs_before_products_only(between: tuple[str, ...]) -> None:
    net, end = chain(*between)
    assert net.on("tensorrt", end) == operands("first", "second")
    assert "(T09)" in net.why("second.output", "tensorrt", end)


def test_a_linear_head_needs_no_pair_behind_it() -> None:
    net, end = chain("relu", "reshape", last="linear")
    assert net.on("onnxruntime", end) == operands("first", "second")
    assert "(O16)" in net.why("second.output", "onnxruntime", end)


def test_a_conv_whose_result_also_leaves_the_model_gets_a_pair_behind_it() -> None:
    net = Net()
    first = net.layer("first", 0)
    last = net.layer("second", first)
    both = {"first.output", "second.output"}
    assert net.on("onnxruntime", last, first) == operands("first", "second") | both


@pytest.mark.parametrize("leaves", ["relu", "pool"])
def test_it_does_so_also_behind_its_relu_or_pool(leaves: str) -> None:
    net = Net()
    tensors = {"relu": net.op("relu", net.layer("first", 0))}
    tensors["pool"] = net.op("max_pool", tensors["relu"])
    last = net.layer("second", tensors["pool"])
    assert "first.output" in net.on("onnxruntime", last, tensors[leaves])


def test_two_integer_readers_of_one_tensor_need_no_pair_behind_its_maker() -> None:
    net = Net()
    x = net.op("max_pool", net.op("relu", net.layer("stem", 0)))
    left, right = net.layer("left", x, "linear"), net.layer("right", x, "linear")
    assert net.on("onnxruntime", left, right) == operands("stem", "left", "right")


def test_one_float_reader_of_two_is_enough_for_a_pair() -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    left, right = net.layer("left", x, "linear"), net.op("sigmoid", x)
    assert "stem.output" in net.on("onnxruntime", left, right)


def residual(*, down: bool, norm: bool = False, stem_kind: str = "conv") -> tuple[Net, int]:
    """relu(stem) -> c1 -> relu -> c2 (-> identity) -> add with relu(stem) or its own conv."""
    net = Net()
    x = net.op("relu", net.layer("stem", 0, stem_kind))
    y = net.layer("c2", net.op("relu", net.layer("c1", x)))
    skip = net.layer("down", x) if down else x
    if norm:
        y, skip = net.op("identity", y), net.op("identity", skip) if down else skip
    return net, net.layer("head", net.op("relu", net.add("add", y, skip)), "linear")


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "folded norms"])
@pytest.mark.parametrize("down", [False, True], ids=["identity skip", "downsample"])
def test_tensorrt_quantizes_the_skip_branch_of_a_residual_add_alone(down: bool, norm: bool) -> None:
    net, end = residual(down=down, norm=norm)
    layers = operands("stem", "c1", "c2", "head", *(["down"] if down else []))
    assert net.on("tensorrt", end) == layers | {"add.input_1"}
    assert net.why("add.input_0", "tensorrt", end) == (
        "the add is fused into the convolution that makes this input (T11)"
    )
    assert net.why("add.input_1", "tensorrt", end) == "skip branch of a residual add (T11)"


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "folded norms"])
@pytest.mark.parametrize("down", [False, True], ids=["identity skip", "downsample"])
def test_onnxruntime_quantizes_both_inputs_and_reads_the_sum_as_codes(
    down: bool, norm: bool
) -> None:
    net, end = residual(down=down, norm=norm)
    layers = operands("stem", "c1", "c2", "head", *(["down"] if down else []))
    assert net.on("onnxruntime", end) == layers | {"add.input_0", "add.input_1"}


def test_onnxruntime_gets_a_pair_behind_an_add_that_something_float_reads() -> None:
    net = Net()
    x = net.layer("stem", 0)
    end = net.op("mean", net.add("add", net.layer("c1", x), x))
    assert "add.output" in net.on("onnxruntime", end)
    assert "(O02, O09)" in net.why("add.output", "onnxruntime", end)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_convs_the_one_on_the_longer_way_is_fused_with_the_add(
    order: tuple[int, int],
) -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    ends = [net.layer("c2", net.op("relu", net.layer("c1", x))), net.layer("down", x)]
    end = net.add("add", *(ends[index] for index in order))
    on = net.on("tensorrt", end)
    assert f"add.input_{order.index(0)}" not in on
    assert f"add.input_{order.index(1)}" in on


BOTH = {"add.input_0", "add.input_1"}


def test_an_add_fused_with_no_convolution_has_both_inputs_quantized_if_integers_leave_it() -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    add = net.add("add", net.op("sigmoid", x), net.op("max_pool", x))
    end = net.layer("head", add)
    assert net.on("tensorrt", end) >= BOTH
    assert net.why("add.input_0", "tensorrt", end) == (
        "no input of this add comes straight from an integer convolution (T13)"
    )
    assert not net.on("tensorrt", end, add) & BOTH
    assert net.why("add.input_0", "tensorrt", end, add) == (
        "something float reads this add, and integers in ask for integers out (T13)"
    )


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_an_add_of_no_integer_op_is_off(target: str) -> None:
    net = Net()
    end = net.layer("head", net.add("add", 0, net.op("flip", 0)))
    assert not net.on(target, end) & BOTH
    assert net.why("add.input_0", target, end) == (
        "no integer op makes what this add reads (T28, O13)"
    )


@pytest.mark.parametrize("through", ["", "identity"])
def test_a_convolution_that_somebody_else_reads_too_is_not_fused_with_the_add(through: str) -> None:
    net = Net()
    y = net.layer("c1", net.op("relu", net.layer("stem", 0)))
    z = net.op(through, y) if through else y
    end = net.layer("head", net.add("add", z, net.op("sigmoid", y)))
    assert net.on("tensorrt", end) >= BOTH


def test_an_add_is_not_fused_into_a_convolution_that_runs_float() -> None:
    net, end = residual(down=False)
    assert net.on("tensorrt", end, floating={"c2"}) >= BOTH
    del net.sites["c2"]  # as ignore= does
    assert net.on("tensorrt", end) >= BOTH


def test_a_sum_of_three_fuses_into_one_convolution() -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    end = net.add("add", x, net.layer("c1", x), net.layer("c2", x))
    on = net.on("tensorrt", end)
    assert len(on & {"add.input_1", "add.input_2"}) == 1
    assert "add.input_0" in on
    assert {"add.input_0", "add.input_1", "add.input_2"} <= net.on("onnxruntime", end)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_shared_range_of_an_add_is_on_for_every_target(target: str) -> None:
    net = Net()
    x = net.layer("stem", 0)
    assert "add.input" in net.on(target, net.add("add", x, net.layer("c1", x), shared=True))


@pytest.mark.parametrize("pooled", [False, True])
def test_an_add_with_one_range_for_its_inputs_reads_another_grid_than_a_conv_does(
    pooled: bool,
) -> None:
    net = Net()
    x = net.op("relu", net.layer("stem", 0))
    x = net.op("max_pool", x) if pooled else x
    end = net.add("add", x, net.layer("c1", x), shared=True)
    on = net.on("onnxruntime", end)
    assert "stem.output" in on
    assert "c1.output" not in on  # read by the add alone


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_layer_switched_off_has_no_activation_pair_and_gets_floats(target: str) -> None:
    net, end = chain("relu")
    on = net.on(target, end, floating={"second"})
    behind = {"first.output"} if target == "onnxruntime" else set()
    assert on == operands("first") | {"second.weight"} | behind
    assert net.why("second.input", target, end, floating={"second"}) == (
        "part of this layer is switched off, so it runs float (O26)"
    )


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_module_the_forward_never_called_is_off(target: str) -> None:
    net, end = chain()
    net.sites["never"] = LAYER
    assert not any(site.startswith("never") for site in net.on(target, end))
    assert net.why("never.input", target, end) == "the recorded forward never called this module"


def test_without_a_graph_outputs_are_off_and_all_else_is_on() -> None:
    decisions = place({"fc": LAYER, "add": ADD}, None, get("tensorrt"))
    on = {each.name for each in decisions if each.action == "quantize"}
    assert on == {"fc.input", "fc.weight", "add.input_0", "add.input_1"}
    assert {each.why for each in decisions} == {"no forward was recorded: inputs and weights only"}


def test_the_roots_own_sites_have_no_dot_in_front() -> None:
    graph = OpGraph((Op("", "conv", (0,), (1,)),), (1,))
    names = [each.name for each in place({"": LAYER}, graph, get("onnxruntime"))]
    assert names == LAYER


@pytest.mark.parametrize(
    ("behind", "limits"),
    [
        ((), None),
        (("sigmoid",), None),
        (("max_pool", "relu"), None),
        (("relu",), (0.0, float("inf"))),
        (("relu6",), (0.0, 6.0)),
        (("identity", "identity", "relu"), (0.0, float("inf"))),
    ],
)
def test_a_region_ends_behind_the_clamp_that_is_fused_with_it(
    behind: tuple[str, ...], limits: tuple[float, float] | None
) -> None:
    net = Net()
    x = first = net.layer("first", 0)
    for kind in behind:
        x = net.op(kind, x)
    tensor, found = region_end(OpGraph(tuple(net.ops), (x,)), net.ops[0])
    assert found == limits
    assert tensor == (first if limits is None else x)


def test_a_clamp_beside_another_reader_is_not_fused() -> None:
    net = Net()
    first = net.layer("first", 0)
    ends = net.op("relu", first), net.op("sigmoid", first)
    assert region_end(OpGraph(tuple(net.ops), ends), net.ops[0]) == (first, None)


@given(
    kinds=st.lists(
        st.sampled_from(["conv", "linear", "relu", "max_pool", "sigmoid", "identity"]),
        min_size=1,
        max_size=12,
    ),
    target=st.sampled_from(["tensorrt", "onnxruntime"]),
)
@settings(max_examples=200, deadline=None)
def test_in_any_chain_every_conv_of_onnxruntime_ends_in_a_pair_and_none_of_tensorrts_does(
    kinds: list[str], target: str
) -> None:
    net, x = Net(), 0
    for index, kind in enumerate(kinds):
        x = net.layer(f"layer{index}", x, kind) if kind in ("conv", "linear") else net.op(kind, x)
    on = net.on(target, x)
    assert on >= operands(*net.sites)
    for index, kind in enumerate(kinds):
        if kind != "conv":
            continue
        rest = [each for each in kinds[index + 1 :] if each != "identity"]
        if rest and rest[0] == "relu":
            rest = rest[1:]
        rest = [each for each in rest if each != "max_pool"]
        reaches_codes = bool(rest) and rest[0] in ("conv", "linear")
        pair_behind = f"layer{index}.output" in on
        assert pair_behind == (target == "onnxruntime" and not reaches_codes)
