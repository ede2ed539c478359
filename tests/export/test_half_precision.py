"""Models in half precision, and files whose float rest is: against float32 and the simulation."""

import copy
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_nets import Functional, built, conv, example, outputs, prepared
from onnx import TensorProto, helper
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.errors import GraphError
from qdq.export.writing import export_onnx
from qdq.graph.files import load, metadata
from qdq.graph.precision import narrow
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers
from qdq.validation.comparing import validate

HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
STEP = 2.0**-10  # of float16, relative
NETS = ["conv_last", "identity_skip", "linear_on_sequences", "two_branches"]


def run(path: Path, x: Any, *, optimized: bool = False) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_EXTENDED if optimized else levels.ORT_DISABLE_ALL
    )
    if optimized:
        options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def rounded(name: str) -> Tensor:
    """Inputs that float16 holds exactly."""
    x = example(name)
    assert isinstance(x, Tensor)
    return x.half().float()


@pytest.mark.parametrize("type_", [torch.float32, torch.float16, torch.bfloat16])
def test_validate_feeds_a_float16_file_whatever_floats_the_batches_are(
    tmp_path: Path, type_: torch.dtype
) -> None:
    model, x, path = prepared("identity_skip"), rounded("identity_skip"), tmp_path / "m.onnx"
    export_onnx(model, x, path, precision="float16")
    report = validate(path, [x.to(type_)], progress=False)
    assert report.samples == len(x)


@pytest.mark.parametrize("opset", [13, 22])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", NETS)
def test_a_float16_file_computes_what_the_model_simulates(
    tmp_path: Path, name: str, target: str, opset: int
) -> None:
    model, x, path = prepared(name, target), rounded(name), tmp_path / "m.onnx"
    export_onnx(model, x, path, precision="float16", opset=opset)
    got, want = run(path, x.half().numpy()), outputs(model, x)[0]
    assert got.dtype == np.float16
    # linear_on_sequences adds a bias in half between its layers for TensorRT: codes may flip.
    steps = 20 if name == "linear_on_sequences" and target == "tensorrt" else 2
    assert np.abs(got.astype(np.float32) - want).max() <= steps * STEP * np.abs(want).max()


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_runs_a_float16_file_in_the_same_integer_kernels(
    tmp_path: Path, name: str
) -> None:
    model, x, found = prepared(name), rounded(name), []
    for precision in ("float32", "float16"):
        path = tmp_path / f"{precision}.onnx"
        export_onnx(model, x, path, precision=precision)
        run(path, x.numpy().astype(precision), optimized=True)
        found.append(ops(path.with_suffix(".optimized.onnx")))
    assert found[1].pop("Cast") == 2  # of the input and of the output
    assert found[0] == found[1]


@pytest.mark.parametrize("precision", HALVES)
def test_the_float_rest_is_half_and_scales_stay_float32(tmp_path: Path, precision: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(net.norm(net.first(x)).sigmoid())

    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    layers = {"first": nn.Linear(12, 16), "norm": nn.LayerNorm(16), "last": nn.Linear(16, 5)}
    model = Functional(forward, **layers).eval()
    insert(model, x, target="tensorrt")
    calibrate(model, [x], method="max", progress=False)
    report = export_onnx(model, x, tmp_path / "m.onnx", precision=precision, opset=17)
    graph = onnx.load(tmp_path / "m.onnx").graph
    types = {each.name: each.data_type for each in graph.initializer}
    scales = [kind for name, kind in types.items() if name.endswith(".scale")]
    assert scales == [TensorProto.FLOAT] * 4
    noted = (*graph.value_info, *graph.input, *graph.output)
    types |= {each.name: each.type.tensor_type.elem_type for each in noted}
    ends = [types[each.name] for each in (*graph.input, *graph.output)]
    inside = [
        types[name]
        for node in graph.node
        if node.op_type in ("LayerNormalization", "Sigmoid")
        for name in (*node.input, *node.output)
    ]
    assert len(inside) >= 6
    assert set(inside) == set(ends) == {HALVES[precision]}
    assert report.rows == export_onnx(model, x, tmp_path / "f.onnx", opset=17).rows


def test_what_an_opset_does_not_define_in_bfloat16_stays_float32(tmp_path: Path) -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    insert(model, x, ignore=nn.Conv2d)
    calibrate(model, [x], method="max", progress=False)
    kinds = []
    for opset in (13, 22):
        export_onnx(model, x, tmp_path / "m.onnx", precision="bfloat16", opset=opset)
        graph = onnx.load(tmp_path / "m.onnx").graph
        weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
        kinds.append([each.data_type for each in graph.initializer if each.name in weights])
    assert kinds == [[TensorProto.FLOAT], [TensorProto.BFLOAT16]]


def test_a_constant_beyond_float16_becomes_its_largest_value(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("mask", torch.tensor([0.0, torch.finfo(torch.float32).min] * 2))

        def forward(self, x: Tensor) -> Any:
            return (self.layer(x) + self.mask).softmax(-1)

    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).half().float()
    model = Masked().eval()
    insert(model, x)
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, tmp_path / "m.onnx", precision="float16")
    got = run(tmp_path / "m.onnx", x.half().numpy())
    np.testing.assert_allclose(got, model(x).detach(), atol=4 * STEP)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETS)
def test_a_half_model_is_calibrated_simulated_and_exported(
    tmp_path: Path, name: str, kind: torch.dtype
) -> None:
    model, x = built(name).to(kind), example(name).to(kind)
    insert(model, x, target="onnxruntime")
    calibrate(model, [x], progress=False)
    simulated = model(x)
    assert simulated.dtype == kind
    assert all(each.amax is None or each.amax.dtype == torch.float32
               for each in quantizers(model).values())  # fmt: skip
    export_onnx(model, x, tmp_path / "m.onnx")
    got = run(tmp_path / "m.onnx", x.float().numpy())
    want = simulated.detach().float().numpy()
    # Half sums in the simulation flip codes; the file sums in float32.
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
    assert next(model.parameters()).dtype == kind


def test_a_half_model_and_its_float32_copy_give_equal_bytes(tmp_path: Path) -> None:
    model, x = prepared("identity_skip").half(), example("identity_skip")
    half = export_onnx(model, x.half(), tmp_path / "h.onnx")
    copied = export_onnx(model.float(), x.half().float(), tmp_path / "f.onnx")
    assert half.sha256 == copied.sha256


def test_a_node_with_a_graph_of_its_own_is_refused() -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "branch", [], [result])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    choice = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    node = helper.make_node("If", ["c"], ["y"], "choose", then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [ends[0], choice], [ends[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(GraphError) as caught:
        narrow(model, "float16", {})
    assert str(caught.value) == (
        "If holds a graph of its own, which is left in float32\n"
        "  at:  choose\n"
        '  fix: pass precision="float32"'
    )


def test_zeros_of_no_noted_type_become_half_too() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Sub", ["zeros", "x"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", 17)]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports))
    narrow(model, "float16", {})
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Shape", "ConstantOfShape", "Sub"]


@pytest.mark.parametrize("external_data", [False, True])
def test_every_site_is_still_called_what_the_metadata_says(
    tmp_path: Path, external_data: bool
) -> None:
    model, x, path = prepared("mlp", "tensorrt"), example("mlp"), tmp_path / "m.onnx"
    export_onnx(model, x, path, precision="float16", external_data=external_data)
    file = load(path)
    names = {name for node in file.graph.node for name in (*node.input, *node.output)}
    assert set(json.loads(metadata(file)["qdq.sites"]).values()) <= names
    assert run(path, np.zeros((1, 12), np.float16)).shape == (1, 5)


def test_a_float64_model_gives_the_bytes_of_its_float32_copy(tmp_path: Path) -> None:
    model, x = prepared("mlp"), example("mlp")
    double = copy.deepcopy(model).double()
    report = export_onnx(double, x.double(), tmp_path / "d.onnx")
    assert report.sha256 == export_onnx(model, x, tmp_path / "f.onnx").sha256
    assert next(double.parameters()).dtype == torch.float64


@pytest.mark.parametrize("block", [torch.inference_mode, lambda: torch.autocast("cpu")])
def test_neither_autocast_nor_inference_mode_changes_a_file(tmp_path: Path, block: Any) -> None:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    reports = []
    for name, around in (("plain", nullcontext), ("within", block)):
        with around():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 5)).eval()
        insert(model, x, target="tensorrt")
        calibrate(model, [x], method="max", progress=False)
        with around():
            reports.append(export_onnx(model, x, tmp_path / f"{name}.onnx", opset=17))
    outside = export_onnx(model, x, tmp_path / "outside.onnx", opset=17)
    assert reports[0].sha256 == reports[1].sha256 == outside.sha256
