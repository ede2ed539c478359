"""What export_onnx writes, what it refuses, and what it leaves of the model."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_nets import NETS, Functional, built, conv, example, outputs, prepared
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.errors import CalibrationError, ExportError, InputError, RegistryError, StepError
from qdq.export.writing import export_onnx
from qdq.insertion.placing import insertion_of
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.spec import QuantSpec
from qdq.targets import get

FLOAT = onnx.TensorProto.FLOAT
TARGETS = ("tensorrt", "onnxruntime")


def written(tmp_path: Path, name: str, target: str = "onnxruntime", **options: Any) -> Any:
    """The graph of a prepared net, its initializers by name, and the maker of every tensor."""
    export_onnx(prepared(name, target), example(name), tmp_path / "m.onnx", **options)
    graph = onnx.load(tmp_path / "m.onnx").graph
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    return graph, arrays, makers


@pytest.mark.parametrize("opset", range(13, 18))
def test_the_file_declares_exactly_the_opset_that_was_asked_for(tmp_path: Path, opset: int) -> None:
    report = export_onnx(prepared("mlp"), example("mlp"), tmp_path / "m.onnx", opset=opset)
    declared = onnx.load(tmp_path / "m.onnx").opset_import
    assert [(each.domain, each.version) for each in declared] == [("", opset)]
    assert report.opset == opset


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_every_weight_is_an_int8_initializer_behind_a_dequantizelinear(
    tmp_path: Path, name: str, target: str
) -> None:
    graph, arrays, makers = written(tmp_path, name, target)
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert products
    for node in products:
        dequantize = makers[node.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert arrays[dequantize.input[0]].dtype == np.int8
        assert makers[node.input[0]].op_type == "DequantizeLinear"
    assert not any(each.dtype == np.float32 and each.ndim > 1 for each in arrays.values())


@pytest.mark.parametrize("name", ["conv_last", "mlp"])
def test_weight_codes_are_the_weight_over_a_127th_of_each_channels_largest(
    tmp_path: Path, name: str
) -> None:
    _, arrays, _ = written(tmp_path, name, skip_passes=["pad_channels"])
    weight = built(name).get_submodule("2").weight.detach().numpy()
    rows = weight.reshape(len(weight), -1)
    scale = np.abs(rows).max(1) / np.float32(127)
    np.testing.assert_array_equal(arrays["2.weight.scale"], scale)
    codes = np.round(rows / scale[:, None]).reshape(weight.shape)
    np.testing.assert_array_equal(arrays["2.weight.codes"], codes)


def test_onnxruntime_gets_an_int32_bias_of_the_scale_of_the_accumulator(tmp_path: Path) -> None:
    _, arrays, makers = written(tmp_path, "conv_last")
    bias = built("conv_last").get_submodule("2").bias.detach().numpy()
    scale = arrays["2.input.scale"] * arrays["2.weight.scale"]
    assert arrays["2.bias.codes"].dtype == np.int32
    np.testing.assert_array_equal(arrays["2.bias.scale"], scale)
    np.testing.assert_array_equal(arrays["2.bias.codes"], np.round(bias / scale))
    assert makers["2.bias"].op_type == "DequantizeLinear"


def test_tensorrt_gets_a_float_bias_that_lies_on_the_grid_of_the_accumulator(
    tmp_path: Path,
) -> None:
    _, arrays, _ = written(tmp_path, "conv_last", "tensorrt")
    bias = built("conv_last").get_submodule("2").bias.detach().numpy()
    scale = arrays["2.input.scale"] * arrays["2.weight.scale"]
    np.testing.assert_array_equal(arrays["2.bias"], np.round(bias / scale) * scale)


@pytest.mark.parametrize("name", NETS)
def test_tensorrt_zero_points_are_int8_zeros(tmp_path: Path, name: str) -> None:
    _, arrays, _ = written(tmp_path, name, "tensorrt")
    points = [each for key, each in arrays.items() if key.endswith(".zero_point")]
    assert points
    assert all(each.dtype == np.int8 and not each.any() for each in points)


def test_onnxruntime_activations_are_uint8_and_start_at_zero_after_a_relu(tmp_path: Path) -> None:
    _, arrays, _ = written(tmp_path, "conv_last")
    assert arrays["2.input.zero_point"].dtype == np.uint8
    assert arrays["2.input.zero_point"] == 0
    assert 0 < arrays["0.input.zero_point"] < 255


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_every_site_is_found_in_the_file_by_its_name(
    tmp_path: Path, name: str, target: str
) -> None:
    model, path = prepared(name, target), tmp_path / "m.onnx"
    report = export_onnx(model, example(name), path)
    loaded = onnx.load(path)
    kept = {each.key: each.value for each in loaded.metadata_props}
    sites = json.loads(kept["qdq.sites"])
    makers = {output: node for node in loaded.graph.node for output in node.output}
    assert kept["qdq.target"] == report.target == target
    assert {row.site: row.tensor for row in report.rows} == sites
    active = {site for site, quantizer in quantizers(model).items() if quantizer.on}
    assert {site for site in sites if not site.endswith("bias")} == active
    floats = {each.name for each in loaded.graph.initializer if each.data_type == FLOAT}
    for site, tensor in sites.items():
        if site.endswith("bias") and target == "tensorrt":
            assert tensor in floats
            continue
        assert makers[tensor].op_type == "DequantizeLinear"
        assert makers[tensor].name == f"{site}/DequantizeLinear"


def test_the_report_tells_what_the_file_holds(tmp_path: Path) -> None:
    model, path = prepared("conv_last"), tmp_path / "m.onnx"
    report = export_onnx(model, example("conv_last"), path)
    arrays = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer
    }
    rows = {row.site: row for row in report.rows}
    assert (report.path, report.bytes) == (str(path), path.stat().st_size)
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (rows["2.weight"].codes, rows["2.weight"].channels) == ("int8", 4)
    assert rows["2.weight"].scale == arrays["2.weight.scale"].min()
    assert rows["2.weight"].scale_max == arrays["2.weight.scale"].max()
    assert (rows["0.input"].codes, rows["0.input"].channels) == ("uint8", 1)
    assert rows["0.input"].zero_point == arrays["0.input.zero_point"]
    assert rows["2.bias"].codes == "int32"
    first, predicted = str(report).splitlines()
    assert first == (
        f"{path}: onnxruntime, opset 13, {len(rows)} sites, {path.stat().st_size:,} bytes"
    )
    assert f"predicted to take {report.predicted:.2f} of the float time" in predicted


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["downsample_skip", "linear_on_sequences"])
def test_equal_models_give_equal_bytes(tmp_path: Path, name: str, target: str) -> None:
    model = prepared(name, target)
    twins = (model, model, copy.deepcopy(model), prepared(name, target))
    digests = {
        export_onnx(each, example(name), tmp_path / f"{index}.onnx").sha256
        for index, each in enumerate(twins)
    }
    assert len(digests) == 1


def test_the_file_names_no_path_of_this_machine(tmp_path: Path) -> None:
    export_onnx(prepared("identity_skip"), example("identity_skip"), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in content
    assert str(tmp_path).encode() not in content


def test_inputs_and_outputs_are_called_as_asked_for(tmp_path: Path) -> None:
    graph, _, _ = written(
        tmp_path, "two_inputs", input_names=["image", "table"], output_names=["logits"]
    )
    assert [each.name for each in graph.input] == ["image", "table"]
    assert [each.name for each in graph.output] == ["logits"]


def test_an_input_called_like_a_site_keeps_its_name(tmp_path: Path) -> None:
    graph, _, makers = written(tmp_path, "conv_last", input_names=["0.input"])
    assert [each.name for each in graph.input] == ["0.input"]
    assert makers["0.input.dequantized"].name == "0.input/DequantizeLinear"


def test_exporting_for_another_target_leaves_the_models_own(tmp_path: Path) -> None:
    model, x = prepared("identity_skip", "tensorrt"), example("identity_skip")
    before = outputs(model, x)
    switches = {site: (q.on, q.spec) for site, q in quantizers(model).items()}
    report = export_onnx(model, x, tmp_path / "m.onnx", target="onnxruntime")
    assert report.target == "onnxruntime"
    assert insertion_of(model).target == get("tensorrt")
    assert {site: (q.on, q.spec) for site, q in quantizers(model).items()} == switches
    np.testing.assert_array_equal(outputs(model, x)[0], before[0])


def test_a_failed_export_for_another_target_leaves_the_models_own(tmp_path: Path) -> None:
    model = prepared("mlp", "tensorrt")
    with pytest.raises(ExportError):
        export_onnx(model, example("mlp"), tmp_path / "m.onnx", target="onnxruntime", opset=99)
    assert insertion_of(model).target.name == "tensorrt"
    with pytest.raises(RegistryError, match="no target 'cuda'"):
        export_onnx(model, example("mlp"), tmp_path / "m.onnx", target="cuda")
    assert insertion_of(model).target.name == "tensorrt"


def test_a_file_for_another_target_is_the_file_of_a_model_placed_for_it(tmp_path: Path) -> None:
    for name in ("downsample_skip", "three_way_shared_add"):
        reports = [
            export_onnx(
                prepared(name, placed), example(name), tmp_path / "m.onnx", target="onnxruntime"
            )
            for placed in TARGETS
        ]
        assert reports[0].sha256 == reports[1].sha256


@pytest.mark.parametrize("name", ["missing/m.onnx", "file/m.onnx", "folder"])
def test_a_path_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="cannot write here") as caught:
        export_onnx(prepared("mlp"), example("mlp"), tmp_path / name)
    assert caught.value.at == str(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_export_leaves_the_older_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"older")

    def fail(_path: Path, _content: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(prepared("mlp"), example("mlp"), path)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_without_ranges_is_refused_with_the_site(tmp_path: Path) -> None:
    model = built("mlp")
    insert(model, example("mlp"))
    with pytest.raises(CalibrationError) as caught:
        export_onnx(model, example("mlp"), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "this quantizer has no range yet\n"
        "  at:  0.input\n"
        "  fix: run qdq.calibrate(model, data) with data that reaches it, or switch it off with "
        "qdq.disable_quantization(model, ...)"
    )
    assert not list(tmp_path.iterdir())


def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        export_onnx(prepared("mlp").train(), example("mlp"), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "export_onnx needs the model in eval mode, and it is in training mode\n"
        "  at:  Sequential\n"
        "  fix: call model.eval() first"
    )


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="this model has no quantizers") as caught:
        export_onnx(built("mlp"), example("mlp"), tmp_path / "m.onnx")
    assert caught.value.fix == "call qdq.insert(model, example_inputs) first"


@pytest.mark.parametrize(
    ("kind", "bits", "site", "form"),
    [
        ("activation", 4, "0.input", "int4 symmetric per-tensor"),
        ("weight", 16, "0.weight", "int16 symmetric per-channel(0)"),
    ],
)
def test_bits_that_no_code_of_opset_13_holds_are_refused_with_the_site(
    tmp_path: Path, kind: str, bits: int, site: str, form: str
) -> None:
    grid: Any = {kind: QuantSpec(bits=bits)}
    model = prepared("mlp", get("tensorrt", **grid))
    with pytest.raises(ExportError) as caught:
        export_onnx(model, example("mlp"), tmp_path / "m.onnx")
    assert str(caught.value) == (
        f"{form} has no QuantizeLinear before opset 21\n"
        f"  at:  {site}\n"
        "  fix: simulate other widths as you like, and export with bits=8"
    )


class Detour(nn.Module):
    """A net that can leave out its second layer, or its result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 4), conv(4, 4)
        self.way = "through"

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.way == "around":
            return x
        y = self.second(x)
        return x if self.way == "unused" else y


def detour(way: str) -> nn.Module:
    torch.manual_seed(0)
    model, x = Detour().eval(), torch.randn(2, 3, 8, 8)
    insert(model, x)
    calibrate(model, [x], method="max", progress=False)
    model.way = way
    return model


def test_sites_that_the_example_does_not_reach_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(detour("around"), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "2 active sites were not reached by the example inputs\n"
        "  at:  second.input, second.weight\n"
        "  fix: pass inputs that take the way through these layers, or leave them out with "
        "qdq.disable_quantization"
    )
    assert not list(tmp_path.iterdir())


def test_sites_that_the_exporter_drops_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(detour("unused"), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "the exporter dropped 3 quantizers\n"
        "  at:  second.bias, second.input, second.weight\n"
        "  fix: their result is not used by any output: leave these layers out with ignore="
    )


@pytest.mark.parametrize("way", ["around", "unused"])
def test_lost_sites_may_be_switched_off_instead(tmp_path: Path, way: str) -> None:
    model = detour(way)
    disable_quantization(model, "second")
    report = export_onnx(model, torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert {row.site for row in report.rows} == {"first.input", "first.weight", "first.bias"}


def test_inputs_the_model_does_not_take_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not take inputs of shape \(2, 5\): RuntimeError"):
        export_onnx(prepared("mlp"), torch.zeros(2, 5), tmp_path / "m.onnx")


def test_a_model_whose_every_switch_is_off_is_exported_in_float(tmp_path: Path) -> None:
    model = prepared("conv_last")
    disable_quantization(model)
    report = export_onnx(model, example("conv_last"), tmp_path / "m.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert report.rows == ()
    assert ops == ["Conv", "Relu", "Conv"]


def test_exporting_changes_no_parameter_and_no_mode(tmp_path: Path) -> None:
    model = prepared("identity_skip")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    export_onnx(model, example("identity_skip"), tmp_path / "m.onnx")
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags
    assert not any(module.training for module in model.modules())


def test_a_matmuls_transposed_weight_still_carries_its_sites_name(tmp_path: Path) -> None:
    graph, arrays, makers = written(tmp_path, "linear_on_sequences", skip_passes=["multiply_flat"])
    product = next(node for node in graph.node if node.op_type == "MatMul")
    assert product.input[1] == "0.weight"
    assert arrays[makers["0.weight"].input[0]].shape == (12, 24)
    assert [(a.name, a.i) for a in makers["0.weight"].attribute] == [("axis", 1)]
    assert not any(node.op_type == "Transpose" for node in graph.node)


def test_a_nested_forward_of_lists_and_dicts_is_exported(tmp_path: Path) -> None:
    def run(net: Any, x: Tensor) -> dict[str, Tensor]:
        return {"a": net.fc(x), "b": x * 2}

    model, x = Functional(run, fc=nn.Linear(12, 4)).eval(), torch.randn(2, 12)
    insert(model, x)
    calibrate(model, [x], method="max", progress=False)
    export_onnx(model, x, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [each.name for each in graph.output] == ["output", "output_1"]
