"""The functions in a user's own module: compiled, traced, exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from qdq.compat.pytorch_quantization import tensor_quant as pq
from qdq.errors import ExportError

# torch.compile warns of what it does itself with an autograd function.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

# A step of 1/64 is exact in binary, so that dividing by it and multiplying with 64 are the same.
AMAX = 127 / 64


class Net(nn.Module):
    """A linear layer between fake quantizers; channel 1 of its weight has a range of zero."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=dtype))
        self.weight.data[1] = 0
        self.register_buffer("amax", torch.tensor([[AMAX], [0.0], [AMAX / 2]]))
        self.register_buffer("input_amax", torch.tensor([AMAX]))

    def forward(self, x: Tensor) -> Tensor:
        x = pq.fake_tensor_quant(x, self.input_amax, 8, False, False)
        weight = pq.fake_tensor_quant(self.weight, self.amax, 8, False, False)
        return nn.functional.linear(x, weight)


class Calling(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).mul(2).to(dtype)


def exported(net: nn.Module, x: Tensor, path: Path, opset: int = 13) -> onnx.ModelProto:
    torch.onnx.export(net.eval(), (x,), path, dynamo=False, opset_version=opset)
    return onnx.load(path)


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    found = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_whole_it_gives_the_same_values_and_gradients(backend: str) -> None:
    net, twin = Net(), Net()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    x = inputs()
    for model in (compiled, twin):
        (model(x) ** 2).sum().backward()
    assert torch.equal(compiled(x), twin(x))
    assert net.weight.grad is not None
    assert twin.weight.grad is not None
    assert torch.equal(net.weight.grad, twin.weight.grad)


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_takes_it(strict: bool) -> None:
    net = Net()
    program = torch.export.export(net, (inputs(),), strict=strict)
    assert torch.equal(program.module()(inputs()), net(inputs()))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: pq.tensor_quant(x, x.abs().max())[0],
        lambda x: pq.fake_tensor_quant(x, x.abs().max(), 8, True),
        lambda x: pq.legacy_fake_tensor_quant(x, x.abs().max()),
        lambda x: pq.fake_affine_tensor_quant(x, x.min(), x.max()),
        lambda x: pq.scaled_e4m3(x, x.abs().max()),
    ],
)
def test_no_check_on_data_breaks_a_graph(function: Callable[[Tensor], Tensor]) -> None:
    x = inputs().abs()
    assert torch.equal(torch.compile(function, fullgraph=True, backend="eager")(x), function(x))
    program = torch.export.export(Calling(function), (x,))
    assert torch.equal(program.module()(x), function(x))


@pytest.mark.parametrize("opset", [13, 17])
def test_the_torchscript_exporter_writes_q_and_dq_that_onnxruntime_agrees_with(
    opset: int, tmp_path: Path
) -> None:
    net, x = Net(), inputs()
    model = exported(net, x, tmp_path / "net.onnx", opset)
    assert model.opset_import[0].version == opset
    assert shape_of(model.graph.output[0]) == [5, 3]
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    kinds = [node.op_type for node in nodes]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 2
    assert len(kinds) - 4 <= 2  # the product, and perhaps a transpose: the scales are constants
    held = constants(model)
    quantizers = [node for node in nodes if node.op_type == "QuantizeLinear"]
    by_axis = {node.attribute[0].i if node.attribute else None: node for node in quantizers}
    scales = {axis: held[node.input[1]] for axis, node in by_axis.items()}
    np.testing.assert_array_equal(scales[None], np.float32(1 / 64))
    np.testing.assert_array_equal(scales[0], np.float32([1 / 64, 1, 1 / 128]))
    assert {held[node.input[2]].dtype for node in quantizers} == {np.dtype(np.int8)}
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_array_equal(found, net(x).detach().numpy())


def test_unsigned_codes_have_255_steps(tmp_path: Path) -> None:
    net = Calling(lambda x: pq.fake_tensor_quant(x, torch.tensor(2.0), 8, True))
    with pytest.warns(torch.jit.TracerWarning):
        model = exported(net, inputs().abs(), tmp_path / "net.onnx")
    held = constants(model)
    (node,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert held[node.input[1]] == np.float32(2) / np.float32(255)
    assert held[node.input[2]].dtype == np.uint8


def test_a_range_computed_from_x_is_exported_as_a_computed_scale(tmp_path: Path) -> None:
    net = Calling(lambda x: pq.fake_tensor_quant(x, x.abs().max(), 8, False, False))
    exported(net, inputs(), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for factor in (1, 8):
        x = inputs() * factor
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, net(x).numpy(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_a_range_may_have_fewer_axes_than_x(shape: tuple[int, ...], tmp_path: Path) -> None:
    amax = (AMAX * torch.tensor([1.0, 0.5, 2, 4])).view(shape)
    net = Calling(lambda x: pq.fake_tensor_quant(x, amax, 8, False, False))
    model = exported(net, inputs(), tmp_path / "net.onnx")
    (node,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert node.attribute[0].i == 1
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs().numpy()})
    np.testing.assert_array_equal(found, net(inputs()).numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_quantized_in_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = exported(Net(dtype), inputs(dtype), tmp_path / "net.onnx")
    makers = {output: node for node in model.graph.node for output in node.output}
    users = {name: node for node in model.graph.node for name in node.input}
    kind = {
        torch.float16: onnx.TensorProto.FLOAT16,
        torch.bfloat16: onnx.TensorProto.BFLOAT16,
        torch.float64: onnx.TensorProto.DOUBLE,
    }
    count = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            count += 1
            before = makers.get(node.input[0])  # the cast of a weight is folded
            assert before is None or before.attribute[0].i == onnx.TensorProto.FLOAT
        if node.op_type == "DequantizeLinear":
            assert users[node.output[0]].op_type == "Cast"
            assert users[node.output[0]].attribute[0].i == kind[dtype]
    assert count == 2
    assert model.graph.output[0].type.tensor_type.elem_type == kind[dtype]


def test_eight_bit_floats_become_tensorrts_operators(tmp_path: Path) -> None:
    amax = torch.tensor(AMAX)
    net = Calling(lambda x: pq.scaled_e4m3(pq.scaled_e4m3(x, amax)))
    model = exported(net, inputs(), tmp_path / "net.onnx")
    held = constants(model)
    nodes = [node for node in model.graph.node if node.domain == "trt"]
    pair = ["TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"]
    assert [node.op_type for node in nodes] == pair * 2
    assert len(shape_of(model.graph.output[0])) == 2
    scales = [float(held[node.input[1]]) for node in nodes]
    assert scales == [np.float32(AMAX) / np.float32(448)] * 2 + [1.0] * 2


@pytest.mark.parametrize(
    ("function", "what", "fix"),
    [
        (
            lambda x: pq.fake_tensor_quant(x, x.abs().max(), 4, False, False),
            "QuantizeLinear has 8 bits, this call 4",
            "pass num_bits=8",
        ),
        (
            lambda x: pq.fake_tensor_quant(x, x.abs().max()),
            "QuantizeLinear reaches -128, a narrow range does not",
            "pass narrow_range=False",
        ),
        (
            lambda x: pq.fake_tensor_quant(x, x.abs(), 8, True),
            r"QuantizeLinear has one axis, an amax of shape \(5, 4\) several",
            "pass an amax that keeps one axis",
        ),
        (
            lambda x: pq.scaled_e4m3(x, x.abs().amax(1, keepdim=True)),
            "eight-bit floats can be exported with one scale only",
            "pass one amax for the whole tensor",
        ),
    ],
)
def test_what_onnx_cannot_hold_is_refused_with_a_fix(
    function: Callable[[Tensor], Tensor], what: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=rf"^{what}\n  fix: {fix}") as caught:
        exported(Calling(function), inputs().abs(), tmp_path / "net.onnx")
    assert isinstance(caught.value, ExportError)
