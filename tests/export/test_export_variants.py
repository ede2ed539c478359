"""Both of torch's exporters: opsets, varying axes, inputs and outputs, against the simulation."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_nets import NETS, Functional, conv, example, fed, outputs, prepared
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate
from qdq.errors import ExportError, InputError, RegistryError
from qdq.export.opsets import newest_opset
from qdq.export.writing import export_onnx
from qdq.insertion.replacing import insert

BOTH = pytest.mark.parametrize("opset", [13, 18])
TARGETS = pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
# A chain of products, a residual block with a pool, keywords in another order, and two results.
SOME = ["linear_on_sequences", "downsample_skip", "keyword_inputs", "two_outputs"]
NEWEST = [("linear_on_sequences", newest_opset()), ("downsample_skip", newest_opset())]
OTHERS = [
    pytest.param(name, opset, marks=pytest.mark.slow)
    for name in NETS
    for opset in (18, newest_opset())
    if name not in SOME
]


def unoptimized(path: Path) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def apart(got: list[Any], want: list[Any]) -> float:
    """The largest difference, in units of the largest value of each output."""
    pairs = zip(got, want, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def ready(model: nn.Module, x: Any, target: str = "onnxruntime") -> nn.Module:
    insert(model.eval(), x, target=target)
    calibrate(model, [(x,)], method="max", progress=False)
    return model


def axes(values: Any) -> list[list[int | str]]:
    shapes = [each.type.tensor_type.shape.dim for each in values]
    return [[dim.dim_param or dim.dim_value for dim in shape] for shape in shapes]


@TARGETS
@pytest.mark.parametrize(("name", "opset"), [*((name, 18) for name in SOME), *NEWEST, *OTHERS])
def test_a_file_of_torch_export_computes_what_the_model_simulates(
    tmp_path: Path, name: str, opset: int, target: str
) -> None:
    model, path = prepared(name, target), tmp_path / "m.onnx"
    report = export_onnx(model, example(name), path, opset=opset)
    declared = [(each.domain, each.version) for each in onnx.load(path).opset_import]
    assert declared == [("", opset)]
    assert report.opset == opset
    fresh = example(name, 5, seed=7)
    assert apart(fed(unoptimized(path), fresh), outputs(model, fresh)) < 1e-5


@TARGETS
def test_both_exporters_write_the_same_codes_scales_and_sites(tmp_path: Path, target: str) -> None:
    model, held, reports = prepared("downsample_skip", target), [], []
    for opset in (17, 18):
        path = tmp_path / f"{opset}.onnx"
        reports.append(export_onnx(model, example("downsample_skip"), path, opset=opset))
        initializers = onnx.load(path).graph.initializer
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in initializers}
        endings = (".codes", ".scale", ".zero_point")
        held.append({name: each for name, each in arrays.items() if name.endswith(endings)})
    assert held[0].keys() == held[1].keys()
    assert all(np.array_equal(held[1][name], each) for name, each in held[0].items())
    rows = [sorted(report.rows, key=lambda row: row.site) for report in reports]
    assert rows[0] == rows[1]
    assert reports[0].passes == reports[1].passes


def test_equal_models_give_equal_bytes_that_name_no_path_of_this_machine(tmp_path: Path) -> None:
    x = example("identity_skip")
    reports = [
        export_onnx(prepared("identity_skip"), x, tmp_path / f"{twin}.onnx", opset=18)
        for twin in range(2)
    ]
    assert reports[0].sha256 == reports[1].sha256
    content = (tmp_path / "0.onnx").read_bytes()
    assert b".py" not in content
    assert b"aten." not in content


@BOTH
def test_axes_vary_where_dynamic_shapes_says_so(tmp_path: Path, opset: int) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.last(F.relu(net.first(x)))

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = ready(Functional(run, first=conv(3, 8), last=conv(8, 4)), x)
    sizes = {2: "height", 3: "width"}
    export_onnx(
        model, x, tmp_path / "m.onnx", opset=opset, dynamic_shapes={"input": sizes, "output": sizes}
    )
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert axes(graph.input) == [["batch", 3, "height", "width"]]
    assert axes(graph.output) == [["batch", 4, "height", "width"]]
    for shape in ((1, 3, 8, 8), (3, 3, 5, 12)):
        fresh = torch.randn(shape)
        assert apart(fed(unoptimized(tmp_path / "m.onnx"), fresh), outputs(model, fresh)) < 1e-5


@BOTH
def test_a_fixed_batch_stays_fixed(tmp_path: Path, opset: int) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(prepared("mlp"), example("mlp"), path, opset=opset, dynamic_batch=False)
    graph = onnx.load(path).graph
    assert axes(graph.input) == [[4, 12]]
    assert axes(graph.output) == [[4, 5]]


@BOTH
def test_an_example_of_one_image_gives_a_file_for_any_number(tmp_path: Path, opset: int) -> None:
    model, path = prepared("identity_skip"), tmp_path / "m.onnx"
    export_onnx(model, example("identity_skip", 1), path, opset=opset)
    assert axes(onnx.load(path).graph.input) == [["batch", 3, 8, 8]]
    fresh = example("identity_skip", 3, seed=7)
    assert apart(fed(unoptimized(path), fresh), outputs(model, fresh)) < 1e-5


@BOTH
def test_results_in_a_nest_are_written_in_their_order(tmp_path: Path, opset: int) -> None:
    def run(net: Any, x: Tensor) -> dict[str, Any]:
        x = net.first(x)
        return {"logits": net.last(F.relu(x)), "inner": (x, x.mean(1))}

    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    model = ready(Functional(run, first=nn.Linear(12, 8), last=nn.Linear(8, 5)), x)
    export_onnx(model, x, tmp_path / "m.onnx", opset=opset, output_names=["logits", "a", "b"])
    result = model(x)
    want = [each.detach().numpy() for each in (result["logits"], *result["inner"])]
    assert apart(fed(unoptimized(tmp_path / "m.onnx"), x), want) < 1e-5


def test_a_layer_that_runs_twice_keeps_both_of_its_calls(tmp_path: Path) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.layer(F.relu(net.layer(x))) + net.layer(x)

    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    model = ready(Functional(run, layer=nn.Linear(8, 8)), x, "tensorrt")
    export_onnx(model, x, tmp_path / "m.onnx", opset=18)
    fresh = torch.randn(3, 8)
    assert apart(fed(unoptimized(tmp_path / "m.onnx"), fresh), outputs(model, fresh)) < 1e-5


def test_a_site_whose_result_nobody_uses_is_refused_by_torch_export_too(tmp_path: Path) -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        net.idle(x)
        return net.last(x)

    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    model = ready(Functional(run, idle=nn.Linear(8, 8), last=nn.Linear(8, 8)), x)
    with pytest.raises(ExportError, match="the exporter dropped 3 quantizers") as caught:
        export_onnx(model, x, tmp_path / "m.onnx", opset=18)
    assert caught.value.at == "idle.bias, idle.input, idle.weight"
    assert not list(tmp_path.iterdir())


def test_a_transformer_layer_over_an_embedding_is_written_by_torch_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)]
    ids = torch.randint(0, 20, (2, 5))
    model, path = ready(nn.Sequential(*layers), ids), tmp_path / "m.onnx"
    export_onnx(model, ids, path, opset=18)
    fresh = torch.randint(0, 20, (3, 5))
    assert apart(fed(unoptimized(path), fresh), outputs(model, fresh)) < 1e-5


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (
            {"image": {2: "height"}},
            "dynamic_shapes names 'image', which is no input or output\n"
            "  fix: known: input, output",
        ),
        (
            {"input": {2: "height"}},
            "dynamic_shapes={'input': {2: 'height'}} is no axis of 2 with a name\n"
            '  fix: pass {"input": {2: "height"}}: axes from 0, and a name for each size',
        ),
    ],
)
def test_an_axis_that_is_not_there_is_refused(
    tmp_path: Path, shapes: dict[str, dict[int, str]], text: str
) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(prepared("mlp"), example("mlp"), tmp_path / "m.onnx", dynamic_shapes=shapes)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["precision", "input"])
def test_a_misspelled_option_is_told_what_is_known(tmp_path: Path, name: str) -> None:
    known = {"precision": "float32, float16, bfloat16", "input": "float, uint8, uint8_nhwc"}
    options: Any = {name: "half"}
    with pytest.raises(ExportError) as caught:
        export_onnx(prepared("mlp"), example("mlp"), tmp_path / "m.onnx", **options)
    assert str(caught.value) == f"{name}='half' is not known\n  fix: known: {known[name]}"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"external_data": "yes"},
            ExportError,
            "external_data='yes' is not known\n  fix: pass True, False or None",
        ),
        (
            {"skip_passes": "pad_stem"},
            ExportError,
            "skip_passes='pad_stem' is no list of names\n  fix: pass skip_passes=['pad_stem']",
        ),
        (
            {"skip_passes": ["pad"]},
            RegistryError,
            "there is no speed pass 'pad'\n  fix: known: fold",
        ),
        ({"path": "none/m.onnx"}, InputError, "cannot write here: No such file or directory\n"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_looked_at(
    tmp_path: Path, options: Any, error: type[Exception], text: str
) -> None:
    path = tmp_path / options.pop("path", "m.onnx")
    with pytest.raises(error) as caught:
        export_onnx(nn.Linear(3, 2), None, path, **options)
    assert str(caught.value).startswith(text)
    assert not list(tmp_path.iterdir())
