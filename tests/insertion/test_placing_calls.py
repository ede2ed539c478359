"""Whole nets of calls: which sites are on, and onnxruntime computes what torch simulates."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from placing_nets import CASES, TARGETS
from torch import Tensor, nn

import qdq
from qdq.targets import get

OFF = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def session(path: Path, level: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def computed(path: Path, level: Any, given: tuple[Tensor, ...]) -> np.ndarray:
    running = session(path, level)
    names = [each.name for each in running.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, given, strict=True)}
    found: np.ndarray = running.run(None, feed)[0]
    return found


def simulated(model: nn.Module, given: tuple[Tensor, ...]) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(*given).numpy()
    return found


def apart(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_the_sites_that_are_on_are_those_of_the_targets_rules(name: str, target: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().eval()
    report = qdq.insert(model, case.example(), target=TARGETS[target])
    assert {row.name for row in report.select("quantize")} == case.on(target)
    assert {each for each, q in qdq.quantizers(model).items() if q.on} == case.on(target)
    assert case.left <= {row.name for row in report.select("skip")}
    assert all(row.why for row in report.rows)


@pytest.mark.parametrize("name", CASES)
def test_retargeted_a_net_has_the_sites_of_one_that_was_inserted_for_that_target(name: str) -> None:
    model = CASES[name].build().eval()
    qdq.insert(model, CASES[name].example(), target=TARGETS["tensorrt"])
    for target in ("onnxruntime", "tensorrt"):
        report = qdq.retarget(model, TARGETS[target])
        assert {row.name for row in report.select("quantize")} == CASES[name].on(target)


@pytest.mark.parametrize("name", CASES)
def test_switched_off_a_net_computes_its_float_outputs_bit_for_bit(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    want = case.build().eval()(*case.example())
    model = case.prepared("onnxruntime")
    assert not torch.equal(model(*case.example()), want)
    with qdq.disable_quantization(model):
        assert torch.equal(model(*case.example()), want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_unoptimized_onnxruntime_computes_what_torch_simulates(
    tmp_path: Path, name: str, target: str
) -> None:
    case, path = CASES[name], tmp_path / "m.onnx"
    model = case.prepared(target)
    report = qdq.export_onnx(model, case.example(), path, opset=13)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    written = {row.site for row in report.rows if not row.site.endswith("bias")}
    assert written == case.on(target)
    fresh = case.example(seed=7)
    assert apart(computed(path, OFF, fresh), simulated(model, fresh)) < 1e-5


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_optimized_onnxruntime_differs_by_single_steps_at_most(
    tmp_path: Path, name: str, target: str
) -> None:
    case, path = CASES[name], tmp_path / "m.onnx"
    model, given = case.prepared(target), case.example()
    qdq.export_onnx(model, given, path, opset=13)
    got, want = computed(path, EXTENDED, given), simulated(model, given)
    with qdq.disable_quantization(model):
        rounding = np.abs(simulated(model, given) - want)
    # sums in another order move values that lie between two codes by one step
    assert np.abs(got - want).mean() < 0.1 * rounding.mean()


INTEGER: dict[str, Counter[str]] = {
    "squeeze and excite": Counter(
        QLinearConv=4, QLinearMul=1, QLinearGlobalAveragePool=1, QLinearSigmoid=1
    ),
    "concat": Counter(QLinearConv=3, QLinearConcat=1),
    "SiLU": Counter(QLinearConv=2),
    "functional": Counter(QLinearConv=2, QLinearAveragePool=1, QGemm=1, MatMulIntegerToFloat=1),
    "residual": Counter(QLinearConv=4, QLinearAdd=1),
    "attention": Counter(MatMulIntegerToFloat=1, QGemm=3),
    "channel shuffle": Counter(QLinearConv=3, QLinearConcat=2, QGemm=1),
    "bilinear": Counter(QLinearConv=3),
    "einsum": Counter(MatMulIntegerToFloat=1, QGemm=2),
}


@pytest.mark.parametrize("name", INTEGER)
def test_what_is_on_for_onnxruntime_runs_in_integers(tmp_path: Path, name: str) -> None:
    case, path = CASES[name], tmp_path / "m.onnx"
    qdq.export_onnx(case.prepared("onnxruntime"), case.example(), path)
    session(path, EXTENDED)
    graph = onnx.load(path.with_suffix(".optimized.onnx")).graph
    ops = Counter(node.op_type for node in graph.node)
    assert {op: ops[op] for op in INTEGER[name]} == INTEGER[name]
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm"} & set(ops)


def test_a_target_may_ask_for_the_products_of_an_attention() -> None:
    case = CASES["encoder"]
    torch.manual_seed(0)
    model = case.build().eval()
    target = get("tensorrt", skip_small=False, float_kinds=("concat",))
    report = qdq.insert(model, case.example(), target=target)
    four = {f"layers.{i}.self_attn.attention_0.input_{j}" for i in (0, 1) for j in range(4)}
    assert {row.name for row in report.select("quantize")} == case.both | four
