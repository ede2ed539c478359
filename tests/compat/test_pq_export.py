"""Plain torch.onnx.export of the old quantizers, by both exporters, run in onnxruntime."""

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pq_nets import calibrated, images, quant_net, quantizers_of, run_onnx
from torch import Tensor, nn

from qdq.compat.pytorch_quantization import enable_onnx_export
from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization.tensor_quant import QuantDescriptor
from qdq.errors import ExportError

EXPORTERS = ["opset 13", "opset 17", "dynamo"]


def exported(model: nn.Module, *inputs: Any, by: str = "opset 13", **options: Any) -> bytes:
    """The file that the exporter of that name writes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), enable_onnx_export():
        if by == "dynamo":
            warnings.simplefilter("ignore")  # torch's own, about its internals
            program = torch.onnx.export(model, inputs, dynamo=True, verbose=False, **options)
            assert program is not None
            return program.model_proto.SerializeToString()
        warnings.simplefilter("ignore", DeprecationWarning)
        opset = int(by.removeprefix("opset "))
        torch.onnx.export(model, inputs, buffer, opset_version=opset, dynamo=False, **options)
    return buffer.getvalue()


def nodes(content: bytes) -> list[str]:
    return [n.op_type for n in onnx.load_from_string(content).graph.node if n.op_type != "Constant"]


def constants(content: bytes) -> dict[str, Any]:
    """Every constant of the graph by the name of its tensor."""
    graph = onnx.load_from_string(content).graph
    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def quantize_nodes(content: bytes) -> list[tuple[Any, Any, int | None]]:
    """(scale, zero point, axis) of every QuantizeLinear; KeyError where one is not constant."""
    known = constants(content)
    rows = []
    for node in onnx.load_from_string(content).graph.node:
        if node.op_type == "QuantizeLinear":
            axis = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
            scale, point = known[node.input[1]], known[node.input[2]]
            rows.append((scale, point, axis[0] if axis else None))
    return rows


@pytest.mark.parametrize("by", EXPORTERS)
def test_the_file_computes_what_the_model_computes(by: str) -> None:
    x = images()
    model = calibrated(quant_net(), x)
    with torch.no_grad():
        expected = model(x)
    content = exported(model, x, by=by)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    np.testing.assert_allclose(run_onnx(content, x), expected, rtol=0, atol=1e-6)
    layers = ["Conv", "ConvTranspose", "AveragePool", "Gemm"]
    assert [op for op in nodes(content) if op in layers] == layers
    assert nodes(content).count("QuantizeLinear") == nodes(content).count("DequantizeLinear") == 7


@pytest.mark.parametrize("by", EXPORTERS)
def test_scales_are_constant_and_follow_the_ranges(by: str) -> None:
    x = images()
    model = calibrated(quant_net(), x)
    found = {None: [], 0: [], 1: []}
    for scale, point, axis in quantize_nodes(exported(model, x, by=by)):
        found[axis].append(scale)
        assert point.dtype == np.int8
        assert not point.any()
    wanted: dict[int | None, list[Any]] = {None: [], 0: [], 1: []}
    for quantizer in quantizers_of(model):
        wanted[quantizer.axis].append((quantizer.amax.numpy() / np.float32(127)).squeeze())
    for axis, scales in wanted.items():
        assert len(found[axis]) == len(scales) > 0
        for scale, one in zip(found[axis], scales, strict=True):
            np.testing.assert_array_equal(scale, one)


@pytest.mark.parametrize("by", EXPORTERS)
def test_unsigned_codes_are_uint8_and_a_zero_range_has_scale_one(by: str) -> None:
    model = nn.Sequential(
        quant_nn.TensorQuantizer(QuantDescriptor(unsigned=True, amax=2.0)),
        quant_nn.TensorQuantizer(QuantDescriptor(amax=0.0)),
    )
    x = torch.tensor([0.0, 1.0, 9.0])
    (first, point, _), (second, _, _) = quantize_nodes(exported(model, x, by=by))
    assert point.dtype == np.uint8
    assert first == np.float32(2.0) / np.float32(255)
    assert second == 1.0


@pytest.mark.parametrize("by", ["opset 13", "dynamo"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_cast_to_fp32_for_the_pair(by: str, dtype: torch.dtype) -> None:
    model = quant_nn.TensorQuantizer(QuantDescriptor(amax=2.0))
    content = exported(model, torch.ones(3, dtype=dtype), by=by)
    assert nodes(content) == ["Cast", "QuantizeLinear", "DequantizeLinear", "Cast"]


@pytest.mark.parametrize("by", EXPORTERS)
def test_pre_quant_scale_and_learned_limits_are_plain_nodes(by: str) -> None:
    model = quant_nn.TensorQuantizer(QuantDescriptor(amax=2.0, learn_amax=True)).eval()
    model.pre_quant_scale = 0.5
    x = torch.tensor([-9.0, 0.3, 1.7, 9.0])
    content = exported(model, x, by=by)
    np.testing.assert_allclose(run_onnx(content, x), model(x).detach(), rtol=0, atol=1e-6)
    assert nodes(content)[-2:] == ["QuantizeLinear", "DequantizeLinear"]


@pytest.mark.parametrize("by", EXPORTERS)
def test_eight_bit_floats_are_tensorrts_own_nodes(by: str) -> None:
    model = quant_nn.TensorQuantizer(QuantDescriptor((4, 3), amax=3.0))
    content = exported(model, torch.ones(3), by=by)
    graph = onnx.load_from_string(content).graph
    found = [node for node in graph.node if node.domain == "trt"]
    assert [n.op_type for n in found] == ["TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"]


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"num_bits": 4, "amax": 1.0}, "QuantizeLinear has 8 bits"),
        ({"narrow_range": True, "amax": 1.0}, "a narrow range does not"),
        ({"num_bits": (4, 3), "axis": 0, "amax": [1.0, 2.0, 3.0]}, "one scale only"),
        ({}, r"Quantizer has not been calibrated\."),
    ],
)
@pytest.mark.parametrize("error", [AssertionError, ExportError])
def test_what_onnx_cannot_hold_is_refused(
    keywords: dict[str, Any], text: str, error: type[Exception]
) -> None:
    model = quant_nn.TensorQuantizer(QuantDescriptor(**keywords))
    with pytest.raises(error, match=text):
        exported(model, torch.ones(3))


def test_several_kept_axes_are_refused() -> None:
    model = quant_nn.TensorQuantizer(QuantDescriptor(axis=(0, 1), amax=[[1.0, 2.0], [3.0, 4.0]]))
    with pytest.raises(AssertionError, match="keeps several axes"):
        exported(model, torch.ones(2, 2))


@pytest.mark.parametrize("by", EXPORTERS)
def test_a_disabled_quantizer_leaves_no_node(by: str) -> None:
    model = calibrated(quant_net(), images())
    for quantizer in quantizers_of(model):
        quantizer.disable()
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(nodes(exported(model, images(), by=by)))


@pytest.mark.parametrize("by", ["opset 13", "dynamo"])
def test_the_batch_may_vary(by: str) -> None:
    x = images()
    model = calibrated(quant_net(), x)
    more = torch.cat([x, x * 0.5])
    options: dict[str, Any] = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}
    if by == "dynamo":
        options = {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
    content = exported(model, x, by=by, **options)
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(content, more), model(more), rtol=0, atol=1e-6)


def test_the_export_of_an_lstm_computes_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5)
    model = calibrated(quant_nn.QuantLSTM(5, 4, bidirectional=True).eval(), x)
    with torch.no_grad():
        expected = model(x)[0]
    content = exported(model, x)
    np.testing.assert_allclose(run_onnx(content, x), expected, rtol=0, atol=1e-5)


def test_a_model_is_the_same_after_its_export() -> None:
    x = images()
    model = calibrated(quant_net(), x)
    with torch.no_grad():
        before: Tensor = model(x)
        exported(model, x)
        assert torch.equal(model(x), before)
