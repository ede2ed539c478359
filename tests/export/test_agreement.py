"""The written file against the torch simulation, in onnxruntime, for both targets."""

import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_nets import (
    NETS,
    Functional,
    conv,
    example,
    fed,
    outputs,
    prepared,
)
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate
from qdq.export.writing import export_onnx
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization

TARGETS = ("tensorrt", "onnxruntime")
OFF = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
PRODUCTS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add"}
# Sums of three have no pair between their two additions (O09), and the bias of a MatMul is added
# in float behind it (O15).
FLOAT_ADDS = {"three_way_add", "three_way_shared_add", "linear_on_sequences"}


def kernels_hold_full_range() -> bool:
    """Without VNNI, x86 kernels saturate where two products of u8 and s8 meet (O24)."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return platform.machine() not in ("x86_64", "AMD64") or "vnni" in flags


integer_kernels = pytest.mark.skipif(not kernels_hold_full_range(), reason="needs VNNI (O24)")


def session(path: Path, level: Any, optimized: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def apart(got: list[Any], want: list[Any]) -> float:
    """The largest difference, in units of the largest value of each output."""
    pairs = zip(got, want, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def optimized_graph(path: Path) -> onnx.GraphProto:
    """What onnxruntime makes of the file at level EXTENDED."""
    session(path, EXTENDED, path.with_suffix(".optimized.onnx"))
    return onnx.load(path.with_suffix(".optimized.onnx")).graph


def floats(graph: onnx.GraphProto) -> list[Any]:
    """The graph's float initializers."""
    held = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
    return [each for each in held if each.dtype == np.float32]


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_unoptimized_onnxruntime_computes_what_torch_simulates(
    tmp_path: Path, name: str, target: str, opset: int
) -> None:
    model, path = prepared(name, target), tmp_path / "m.onnx"
    export_onnx(model, example(name), path, opset=opset)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    fresh = example(name, 4, seed=7)
    assert apart(fed(session(path, OFF), fresh), outputs(model, fresh)) < 1e-5


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_the_simulation_is_not_the_float_model(name: str, target: str) -> None:
    model, inputs = prepared(name, target), example(name)
    simulated = outputs(model, inputs)
    with disable_quantization(model):
        assert 1e-4 < apart(simulated, outputs(model, inputs)) < 0.3


@integer_kernels
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_integer_kernels_agree_with_the_simulation(
    tmp_path: Path, name: str, dynamic: bool
) -> None:
    model, path = prepared(name), tmp_path / "m.onnx"
    export_onnx(model, example(name), path, dynamic_batch=dynamic)
    assert apart(fed(session(path, EXTENDED), example(name)), outputs(model, example(name))) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_a_tensorrt_file_differs_in_optimized_onnxruntime_by_single_steps_only(
    tmp_path: Path, name: str
) -> None:
    # Fused float kernels sum in another order, which moves values that lie on the border between
    # two codes by one step of an inner layer, and with it the row that this step feeds.
    model, path = prepared(name, "tensorrt"), tmp_path / "m.onnx"
    export_onnx(model, example(name), path)
    for got, want in zip(
        fed(session(path, EXTENDED), example(name)), outputs(model, example(name)), strict=True
    ):
        error = np.abs(got - want) / np.abs(want).max()
        assert error.max() < 0.02
        assert (error > 1e-5).mean() < 0.5


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_for_onnxruntime_every_product_and_sum_runs_in_integers(
    tmp_path: Path, name: str, dynamic: bool
) -> None:
    model, path = prepared(name), tmp_path / "m.onnx"
    export_onnx(model, example(name), path, dynamic_batch=dynamic)
    ops = Counter(node.op_type for node in optimized_graph(path).node)
    kinds = Counter(type(module).__name__ for module in model.modules())
    allowed = {"Add"} if name in FLOAT_ADDS else set()
    assert PRODUCTS & set(ops) <= allowed
    assert ops["QLinearConv"] == kinds["QuantConv2d"]
    linear = ops["QGemm"] + ops["QLinearMatMul"] + ops["MatMulIntegerToFloat"]
    assert linear == kinds["QuantLinear"]
    assert ops["QLinearAdd"] == kinds["QuantAdd"]


@pytest.mark.parametrize("name", ["max_pool_chain", "downsample_skip", "pool_with_two_readers"])
def test_for_onnxruntime_max_pools_move_codes(tmp_path: Path, name: str) -> None:
    model, path = prepared(name), tmp_path / "m.onnx"
    export_onnx(model, example(name), path)
    graph = optimized_graph(path)
    makers = {output: node.op_type for node in graph.node for output in node.output}
    pools = [node for node in graph.node if node.op_type == "MaxPool"]
    assert pools
    assert all(makers[node.input[0]] in ("QLinearConv", "QLinearAdd") for node in pools)


def test_a_relu_behind_an_integer_conv_costs_nothing(tmp_path: Path) -> None:
    model, x = prepared("conv_last"), example("conv_last")
    export_onnx(model, x, tmp_path / "m.onnx", skip_passes=["pad_stem"])
    ops = Counter(node.op_type for node in optimized_graph(tmp_path / "m.onnx").node)
    assert ops == {"QuantizeLinear": 1, "QLinearConv": 2, "DequantizeLinear": 1}


@pytest.mark.parametrize("behind", [nn.ReLU(), nn.ReLU6()])
def test_a_linear_layer_runs_in_integers_with_a_float_reader_behind_its_clamp(
    tmp_path: Path, behind: nn.Module
) -> None:
    torch.manual_seed(0)
    model = Functional(lambda net, x: -net.act(net.fc(x)), fc=nn.Linear(12, 8), act=behind).eval()
    x, path = torch.randn(4, 12), tmp_path / "m.onnx"
    insert(model, x, target="onnxruntime")
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, path)
    ops = Counter(node.op_type for node in optimized_graph(path).node)
    assert ops["QGemm"] == 1
    assert not PRODUCTS & set(ops)
    assert apart(fed(session(path, EXTENDED), x), outputs(model, x)) < 1e-5


def three_convs() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 8))


def pooled_convs() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8)
    )  # fmt: skip


def early_pool() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8), nn.ReLU(), conv(8, 8)
    )  # fmt: skip


def three_linears() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


@pytest.mark.parametrize("level", [BASIC, EXTENDED])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("net", "shape", "left"),
    [
        (three_convs, (3, 8, 8), "0"),
        (three_convs, (3, 8, 8), "2"),
        (three_convs, (3, 8, 8), "4"),
        (pooled_convs, (3, 8, 8), "2"),
        (early_pool, (3, 8, 8), "3"),
        (three_linears, (12,), "2"),
        (three_linears, (6, 12), "2"),
    ],
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_an_ignored_layer_keeps_its_float_weight_also_in_onnxruntimes_own_graph(
    tmp_path: Path,
    net: Any,
    shape: tuple[int, ...],
    left: str,
    target: str,
    level: Any,
    dynamic: bool,
) -> None:
    torch.manual_seed(0)
    model, x, path = net().eval(), torch.randn(4, *shape), tmp_path / "m.onnx"
    weight = model.get_submodule(left).weight.detach().numpy().copy()
    insert(model, x, target=target, ignore=left)
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, path, dynamic_batch=dynamic)
    optimized = tmp_path / "optimized.onnx"
    got = fed(session(path, level, optimized), x)
    graph = onnx.load(optimized).graph
    forms = (weight, weight.T)  # a MatMul holds it transposed
    assert any(
        np.array_equal(held, form)
        for held in floats(graph)
        for form in forms
        if held.shape == form.shape
    )
    assert PRODUCTS & {node.op_type for node in graph.node}
    limit = 1e-5 if target == "onnxruntime" else 0.02  # flips: see the test of TensorRT files
    assert apart(got, outputs(model, x)) < limit


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["mlp", "identity_skip", "downsample_skip", "keyword_inputs"])
def test_a_dynamic_batch_takes_any_number_of_rows(tmp_path: Path, name: str, target: str) -> None:
    model, path = prepared(name, target), tmp_path / "m.onnx"
    export_onnx(model, example(name), path)
    for rows in (1, 3, 7):
        x = example(name, rows, seed=rows)
        got = fed(session(path, OFF), x)
        assert len(got[0]) == rows
        assert apart(got, outputs(model, x)) < 1e-5


def test_a_static_batch_takes_its_own_number_of_rows_only(tmp_path: Path) -> None:
    export_onnx(prepared("mlp"), example("mlp"), tmp_path / "m.onnx", dynamic_batch=False)
    running = session(tmp_path / "m.onnx", OFF)
    assert running.get_inputs()[0].shape == [4, 12]
    with pytest.raises(Exception, match="Got: 3 Expected: 4"):
        fed(running, example("mlp", 3))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("first", ["head", "table"])
def test_a_weight_that_is_also_read_as_float_is_exported_both_ways(
    tmp_path: Path, target: str, first: str
) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(F.embedding(x, net.table.weight))

    torch.manual_seed(0)
    table, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = table.weight
    layers = {"head": head, "table": table}
    order = [first, *(name for name in layers if name != first)]
    model = Functional(run, **{name: layers[name] for name in order}).eval()
    x = torch.arange(6).reshape(2, 3)
    insert(model, x, target=target)
    calibrate(model, [x], method="max", progress=False)
    report = export_onnx(model, x, tmp_path / "m.onnx")
    assert {row.site for row in report.rows} == {"head.input", "head.weight"}
    assert apart(fed(session(tmp_path / "m.onnx", OFF), x), outputs(model, x)) < 1e-5


def test_two_layers_may_share_one_weight_with_each_its_codes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval()
    model[2].weight = model[0].weight
    x = torch.randn(4, 6)
    insert(model, x, target="onnxruntime")
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, tmp_path / "m.onnx")
    assert apart(fed(session(tmp_path / "m.onnx", OFF), x), outputs(model, x)) < 1e-5


def test_a_layer_switched_off_is_exported_in_float(tmp_path: Path) -> None:
    model, path, x = prepared("max_pool_chain"), tmp_path / "m.onnx", example("max_pool_chain")
    weight = model.get_submodule("3").weight.detach().numpy().copy()
    disable_quantization(model, "3")
    export_onnx(model, x, path)
    graph = optimized_graph(path)
    assert any(np.array_equal(held, weight) for held in floats(graph))
    assert Counter(node.op_type for node in graph.node)["QLinearConv"] == 1
    assert apart(fed(session(path, EXTENDED), x), outputs(model, x)) < 1e-5
