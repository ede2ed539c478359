"""Lint finds what is broken, and nothing else: against a checker written apart, and by injury."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import qdq
from qdq.errors import GraphError, RegistryError
from qdq.graph.linting.judging import judge, lint
from qdq.targets import Target, get
from tests.checking.qdq_edges import violations
from tests.checking.test_onnxruntime_rules import CASES as ONNXRUNTIME
from tests.checking.test_tensorrt_numbers import CASES as NUMBERS
from tests.checking.test_tensorrt_placement import CASES as PLACEMENT
from tests.checking.tiny_graphs import Net
from tests.export.export_nets import example, prepared
from tests.graph.linting.injuries import INJURIES, injured

GOOD = (
    "mlp", "linear_on_sequences", "max_pool_chain", "batch_norm_chain", "average_pool_chain",
    "depthwise", "identity_skip", "downsample_skip", "pool_with_two_readers", "two_inputs",
)  # fmt: skip
CASES = (("onnxruntime", ONNXRUNTIME), ("tensorrt", NUMBERS), ("tensorrt", PLACEMENT))
BUILDS = [
    pytest.param(target, build, id=f"{target} {name}")
    for target, cases in CASES
    for name, build in cases.items()
]
INJURED = [(target, name) for target, injuries in INJURIES.items() for name in injuries]


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(net, target) -> its file."""
    folder = tmp_path_factory.mktemp("good")
    files = {}
    for name in GOOD:
        model = prepared(name)
        for target in ("tensorrt", "onnxruntime"):
            files[name, target] = folder / f"{name}.{target}.onnx"
            qdq.export_onnx(model, example(name), files[name, target], target=target)
    return files


def rules_in(model: onnx.ModelProto, target: str) -> set[str]:
    return {row.rule for row in judge(model, get(target))}


def as_other_tools_write_it() -> onnx.ModelProto:
    """A residual block for onnxruntime with ReLUs and pools between its pairs."""
    net = Net(signed=False)
    x = net.pair("x")

    def layer(y: str) -> str:
        return net.op("Conv", y, net.weight((2, 2, 1, 1)), net.bias(2))

    y = net.pair(net.op("Relu", layer(x)))
    y = net.pair(net.op("Relu", net.op("Add", net.pair(layer(y)), x)))
    y = net.pair(net.op("MaxPool", y, kernel_shape=[2, 2]))
    y = net.pair(net.op("GlobalAveragePool", net.pair(layer(y))))
    y = net.pair(net.op("Flatten", y))
    return net.model(net.op("Gemm", y, net.weight((4, 2)), net.bias(4), transB=1))


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(("target", "build"), BUILDS)
def test_lint_and_the_checker_written_apart_name_the_same_rules(
    target: Any, build: Any, broken: bool
) -> None:
    model = build(broken)
    known = {rule for rule in rules_in(model, target) if not rule.startswith("Q")}
    assert known == {each.rule for each in violations(model, target)}


def test_our_own_files_break_no_rule(good_files: dict[tuple[str, str], Path]) -> None:
    assert judge(as_other_tools_write_it(), get("onnxruntime")) == ()
    assert len(good_files) == 20
    for (_, target), path in good_files.items():
        assert lint(path, target).rows == ()
        assert lint(path).target == target  # the file says it


@pytest.mark.parametrize(("target", "name"), INJURED)
def test_every_injury_of_a_good_file_is_found(
    good_files: dict[tuple[str, str], Path], target: str, name: str
) -> None:
    models = [onnx.load(path) for (_, each), path in good_files.items() if each == target]
    models += [as_other_tools_write_it()] if target == "onnxruntime" else []
    hurt = [each for model in models if (each := injured(model, target, name)) is not None]
    assert hurt
    for model in hurt:
        assert name[:3] in rules_in(model, target)


def test_a_finding_says_which_rule_where_why_and_what_to_do(tmp_path: Path) -> None:
    net = Net()
    onnx.save(net.model(net.float_conv(net.pair("x"))), tmp_path / "m.onnx")
    report = lint(tmp_path / "m.onnx", "tensorrt")
    (row,) = report.rows
    assert report.boundaries == 2
    assert (row.rule, row.severity, row.node, row.tensor) == ("T08", "warning", "Conv -> t2", "c2")
    assert row.why == "c2 is float, the other factor int8"
    assert row.fix == "quantize this weight too, or leave the layer float as a whole"


def test_errors_come_first() -> None:
    net = Net(signed=False)
    y = net.op("Conv", net.pair("x", zero=3), net.weight((2, 2, 1, 1), None))
    rows = judge(net.model(y), get("tensorrt"))
    assert [row.severity for row in rows] == ["error", "error", "warning"]
    assert [row.rule for row in rows] == ["T01", "T02", "T03"]


def test_a_branch_is_judged_too_and_reads_tensors_around_it() -> None:
    net = Net(signed=False)
    y = net.op("Relu", net.conv(net.pair("x")))
    z = net.pair(y)
    branch = helper.make_graph(
        [helper.make_node("Conv", [z, "w"], ["b"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 2, 1, 1], [1.0] * 4)],
    )
    condition = net.op("Cast", net.hold(1.0), to=TensorProto.BOOL)
    net.op("If", condition, then_branch=branch, else_branch=branch)
    rows = judge(net.model(z), get("tensorrt"))
    assert ("T08", "inner") in {(row.rule, row.node) for row in rows}
    assert not {row.rule for row in rows} & {"Q05"}  # the branch reads z


def test_a_file_of_nobody_and_no_target_is_refused(tmp_path: Path) -> None:
    net = Net()
    onnx.save(net.model(net.conv(net.pair("x"))), tmp_path / "m.onnx")
    with pytest.raises(GraphError) as caught:
        lint(tmp_path / "m.onnx")
    assert str(caught.value) == (
        "the file does not say which runtime it is made for\n"
        f"  at:  {tmp_path / 'm.onnx'}\n  fix: name the target: onnxruntime, tensorrt"
    )


def test_a_target_without_rules_is_refused(tmp_path: Path) -> None:
    net = Net()
    onnx.save(net.model(net.conv(net.pair("x"))), tmp_path / "m.onnx")
    options = dict(integer_bias=True, quantize_outputs=True, skip_branch_only=False)
    own = Target(name="dsp", activation=get("tensorrt").activation, **options)
    with pytest.raises(RegistryError, match="there are no rules for target 'dsp'"):
        lint(tmp_path / "m.onnx", own)


def test_a_long_chain_and_a_doubling_one_end() -> None:
    net = Net()
    y = net.conv(net.pair("x"))
    for _ in range(3000):
        y = net.op("Identity", y)
    for _ in range(60):  # 2^60 ways lead through it
        y = net.op("Concat", y, y, axis=0)
    model = net.model(net.conv(net.pair(net.op("Add", y, net.op("Relu", y)))))
    assert judge(model, get("tensorrt")) is not None
    assert judge(model, get("onnxruntime"))[0].rule == "O02"
