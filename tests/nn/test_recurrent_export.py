"""Recurrent layers and cells as plain torch.onnx writes them, in onnxruntime."""

import io
from collections import Counter
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from recurrent_references import HIDDEN, IN, furthest, normal, passing, ranged, tensors
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from qdq.errors import ExportError
from qdq.nn import QuantGRU, QuantGRUCell, QuantLSTM, QuantLSTMCell

STEPS = 4


def exported(model: nn.Module, args: tuple[Any, ...], batch_axes: list[int]) -> onnx.ModelProto:
    names = [f"x{k}" for k in range(len(tensors(args)))]
    axes = {name: {axis: "batch"} for name, axis in zip(names, batch_axes, strict=True)}
    buffer = io.BytesIO()
    torch.onnx.export(
        model, args, buffer, dynamo=False, opset_version=13, input_names=names, dynamic_axes=axes
    )
    written = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(written, full_check=True)
    assert [(each.domain, each.version) for each in written.opset_import] == [("", 13)]
    return written


def run(written: onnx.ModelProto, args: tuple[Any, ...]) -> list[Tensor]:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        written.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    feeds = {f"x{k}": each.numpy() for k, each in enumerate(tensors(args))}
    return [torch.from_numpy(each) for each in session.run(None, feeds)]


def layer(quantized: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return ranged(quantized(IN, HIDDEN, **options), 2.0, 0.7).eval()


LAYERS = pytest.mark.parametrize("quantized", [QuantLSTM, QuantGRU])


@LAYERS
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}],
    ids=str,
)
@torch.no_grad()
def test_a_layer_computes_the_same_in_onnxruntime_with_another_batch_size(
    quantized: Any, options: dict[str, Any]
) -> None:
    model = layer(quantized, **options)
    first = options.get("batch_first", False)
    sizes = [(n, STEPS) if first else (STEPS, n) for n in (2, 5)]
    written = exported(model, (normal(*sizes[0], IN),), [0 if first else 1])
    x = normal(*sizes[1], IN, seed=2)
    assert furthest(run(written, (x,)), tensors(model(x))) <= 1e-5


@LAYERS
@torch.no_grad()
def test_states_and_unbatched_input_are_exported_too(quantized: Any) -> None:
    model = layer(quantized)
    h, c = normal(1, 2, HIDDEN, seed=3), normal(1, 2, HIDDEN, seed=4)
    args = (normal(STEPS, 2, IN), (h, c) if quantized is QuantLSTM else h)
    written = exported(model, args, [1] * len(tensors(args)))
    assert furthest(run(written, args), tensors(model(*args))) <= 1e-5
    alone = (normal(STEPS, IN),)
    found = run(exported(model, alone, [0]), alone)
    assert furthest(found, tensors(model(*alone))) <= 1e-5


@pytest.mark.parametrize("quantized", [QuantLSTMCell, QuantGRUCell])
@torch.no_grad()
def test_a_cell_computes_the_same_in_onnxruntime_with_another_batch_size(quantized: Any) -> None:
    model = layer(quantized)
    written = exported(model, (normal(2, IN),), [0])
    x = normal(5, IN, seed=2)
    assert furthest(run(written, (x,)), tensors(model(x))) <= 1e-5


@LAYERS
@torch.no_grad()
def test_a_pair_stands_at_each_weight_at_x_and_at_h_of_each_step(quantized: Any) -> None:
    written = exported(layer(quantized, num_layers=2), (normal(STEPS, 2, IN),), [1])
    ops = Counter(node.op_type for node in written.graph.node)
    per_layer = 2 + 1 + STEPS  # weights, x of all steps at once, h of each
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 2 * per_layer
    assert ops["MatMul"] == 2 * (1 + STEPS)
    assert not ops["Gemm"]  # its float bias would keep it from running in integers (O16)


@LAYERS
@torch.no_grad()
def test_what_the_layer_reads_is_read_by_nothing_but_its_pair(quantized: Any) -> None:
    written = exported(layer(quantized), (normal(STEPS, 2, IN),), [1])
    readers = [node.op_type for node in written.graph.node if "x0" in node.input]
    assert readers == ["QuantizeLinear"]  # a Shape there would hold what made x in float (O17)


class Packing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = layer(QuantLSTM)
        self.rnn._input_quantizers[0].site = "rnn.input_0"

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.rnn(pack_padded_sequence(x, lengths))[0].data


def test_a_packed_sequence_is_refused_on_the_way_to_onnx() -> None:
    model, args = Packing().eval(), (normal(STEPS, 2, IN), torch.tensor([4, 2]))
    assert model(*args).shape == (6, HIDDEN)
    with pytest.raises(ExportError) as caught:
        exported(model, args, [1, 0])
    assert str(caught.value) == (
        "a packed sequence cannot be exported from a quantized layer: the unrolled steps would "
        "hold the lengths of the example for good\n"
        "  at:  rnn\n"
        "  fix: export with a padded tensor, or leave this layer float with ignore="
    )


def test_exporting_leaves_the_layer_as_it_was() -> None:
    model = layer(QuantLSTM)
    x = normal(STEPS, 2, IN)
    before = model(x)
    exported(model, (x,), [1])
    assert furthest(model(x), before) == 0.0
    assert furthest(passing(model)(x), before) > 0.0
