"""The quantized modules against their float classes, and their arguments."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from pq_nets import numpy_fake_quant, quantizers_of
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from qdq.compat.pytorch_quantization import nn as quant_nn
from qdq.compat.pytorch_quantization.nn.functional import clip
from qdq.compat.pytorch_quantization.nn.modules import _utils, quant_conv
from qdq.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_PER_TENSOR,
    QuantDescriptor,
)

SPATIAL = (6, 5, 4)
CONVS = [
    (kind, rank, padding, mode)
    for rank in (1, 2, 3)
    for kind, modes in (("Conv", ("zeros", "reflect", "replicate", "circular")),)
    for mode in modes
    for padding in (1, "same")
    if (rank, mode) != (3, "reflect") or padding == 1
]
INPUT_ONLY = [
    *((f"{kind}{rank}d", (2,), rank) for kind in ("MaxPool", "AvgPool") for rank in (1, 2, 3)),
    *((f"AdaptiveAvgPool{rank}d", (2,), rank) for rank in (1, 2, 3)),
    *((f"InstanceNorm{rank}d", (3,), rank) for rank in (1, 2, 3)),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(name: str, *args: Any, **keywords: Any) -> tuple[nn.Module, nn.Module]:
    """A quantized module and a float one with its weights."""
    torch.manual_seed(0)
    quantized = getattr(quant_nn, f"Quant{name}")(*args, **keywords)
    floating = getattr(nn, name)(*args, **keywords)
    floating.load_state_dict(quantized.state_dict())
    return quantized.eval(), floating.eval()


def off(module: nn.Module) -> nn.Module:
    for quantizer in quantizers_of(module):
        quantizer.disable()
    return module


def dynamically_quantized(x: Tensor, axis: int | None = None) -> Tensor:
    dims = None if axis is None else tuple(each for each in range(x.dim()) if each != axis)
    amax = np.abs(x.detach().numpy()).max(axis=dims, keepdims=axis is not None)
    return torch.from_numpy(numpy_fake_quant(x.detach().numpy(), amax))


@pytest.mark.parametrize(("kind", "rank", "padding", "mode"), CONVS)
def test_a_convolution_is_the_float_one_on_quantized_operands(
    kind: str, rank: int, padding: Any, mode: str
) -> None:
    quantized, floating = pair(f"{kind}{rank}d", 3, 4, 3, padding=padding, padding_mode=mode)
    x = normal(2, 3, *SPATIAL[:rank])
    weight = dynamically_quantized(floating.weight, 0)
    floating.weight.data = weight
    torch.testing.assert_close(quantized(x), floating(dynamically_quantized(x)))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_transposed_convolution_is_the_float_one_on_quantized_operands(rank: int) -> None:
    quantized, floating = pair(f"ConvTranspose{rank}d", 3, 4, 3, stride=2, groups=1)
    x = normal(2, 3, *SPATIAL[:rank])
    floating.weight.data = dynamically_quantized(floating.weight, 1)
    size = [2 * each + 2 for each in SPATIAL[:rank]]
    for given in (None, size):
        expected = floating(dynamically_quantized(x), given)
        torch.testing.assert_close(quantized(x, output_size=given), expected)


def test_a_transposed_convolution_knows_no_padding_mode_but_zeros() -> None:
    with pytest.raises(ValueError, match="zeros"):
        quant_nn.QuantConvTranspose2d(3, 4, 3, padding_mode="reflect")


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_takes_any_rank(shape: tuple[int, ...], bias: bool) -> None:
    quantized, floating = pair("Linear", 4, 3, bias=bias)
    x = normal(*shape)
    floating.weight.data = dynamically_quantized(floating.weight, 0)
    torch.testing.assert_close(quantized(x), floating(dynamically_quantized(x)))


@pytest.mark.parametrize(("name", "args", "rank"), INPUT_ONLY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pools_and_norms_quantize_their_input(
    name: str, args: tuple[Any, ...], rank: int, dtype: torch.dtype
) -> None:
    quantized, floating = pair(name, *args)
    x = normal(2, 3, *SPATIAL[:rank]).to(dtype)
    assert quantized(x).dtype == dtype
    torch.testing.assert_close(quantized(x), floating(dynamically_quantized(x).to(dtype)))
    assert list(dict(quantized.named_children())) == ["_input_quantizer"]


@pytest.mark.parametrize(
    "name", [f"{p}{k}" for k in ("Conv2d", "Linear", "LSTM", "MaxPool1d") for p in ("", "Quant")]
)
def test_plain_names_are_the_quantized_classes_and_those_are_torchs(name: str) -> None:
    found = getattr(quant_nn, name)
    assert found is getattr(quant_nn, f"Quant{name.removeprefix('Quant')}")
    assert issubclass(found, getattr(nn, name.removeprefix("Quant")))


def test_the_public_list_of_the_package_is_complete() -> None:
    assert len(quant_nn.__all__) == 41
    assert all(getattr(quant_nn, name) for name in quant_nn.__all__)
    assert not hasattr(quant_nn, "InstanceNorm1d")
    assert issubclass(quant_nn.QuantConv2d, quant_conv._QuantConvNd)
    assert issubclass(quant_nn.QuantConvTranspose2d, quant_conv._QuantConvTransposeNd)


def test_quantizers_hang_where_user_code_looks_for_them() -> None:
    layer = quant_nn.QuantConv2d(3, 4, 3)
    assert layer.input_quantizer is layer._input_quantizer
    assert layer.weight_quantizer is layer._weight_quantizer
    assert (layer.input_quantizer.axis, layer.weight_quantizer.axis) == (None, 0)
    assert quant_nn.QuantConvTranspose2d(3, 4, 3).weight_quantizer.axis == 1
    assert isinstance(layer, nn.Conv2d)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_descriptors_of_their_own_come_by_keyword() -> None:
    layer = quant_nn.QuantLinear(
        3,
        out_features=2,
        quant_desc_input=QuantDescriptor(4),
        quant_desc_weight=QuantDescriptor(6, axis=None),
        device="cpu",
        dtype=torch.float64,
    )
    assert (layer.input_quantizer.num_bits, layer.weight_quantizer.num_bits) == (4, 6)
    assert layer.weight_quantizer.axis is None
    assert layer.weight.dtype == torch.float64
    assert layer(torch.ones(1, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("kind", "args"),
    [("QuantConv2d", (3, 4, 3)), ("QuantLinear", (3, 4)), ("QuantAvgPool2d", (2,))],
)
def test_keywords_that_nobody_knows_are_named(kind: str, args: tuple[Any, ...]) -> None:
    unknown = "quant_desc_weight" if kind == "QuantAvgPool2d" else "colour"
    with pytest.raises(TypeError, match=rf"^Unused keys: \['{unknown}'\].*{kind}"):
        getattr(quant_nn, kind)(*args, **{unknown: 1})


def test_codes_instead_of_values_are_refused() -> None:
    real = QuantDescriptor(fake_quant=False)
    for keyword in ("quant_desc_input", "quant_desc_weight"):
        with pytest.raises(ValueError, match=r"^Only fake quantization is supported!"):
            quant_nn.QuantLinear(3, 4, **{keyword: real})


def test_a_default_descriptor_counts_for_its_class_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in (quant_nn.QuantConv2d, quant_nn.QuantLinear):
        monkeypatch.setattr(kind, "default_quant_desc_input", kind.default_quant_desc_input)
        monkeypatch.setattr(kind, "default_quant_desc_weight", kind.default_quant_desc_weight)
    before = quant_nn.QuantConv2d(3, 4, 3)
    desc = QuantDescriptor(5)
    quant_nn.QuantConv2d.set_default_quant_desc_input(desc)
    quant_nn.QuantConv2d.set_default_quant_desc_weight(QuantDescriptor(6))
    assert quant_nn.QuantConv2d.default_quant_desc_input is not desc
    after = quant_nn.QuantConv2d(3, 4, 3)
    bits = [each.num_bits for each in quantizers_of(nn.ModuleList([before, after]))]
    assert bits == [8, 8, 5, 6]
    assert quant_nn.QuantLinear(3, 4).input_quantizer.num_bits == 8
    assert quant_nn.QuantConv1d.default_quant_desc_input == QUANT_DESC_8BIT_PER_TENSOR
    with pytest.raises(ValueError, match="is not an instance of QuantDescriptor"):
        quant_nn.QuantConv2d.set_default_quant_desc_input(8)  # type: ignore[arg-type]


def test_helpers_for_modules_of_ones_own_keep_their_rules() -> None:
    class Doubled(nn.Identity, _utils.QuantInputMixin):
        def __init__(self, **keywords: Any) -> None:
            super().__init__()
            desc = _utils.pop_quant_desc_in_kwargs(type(self), input_only=True, **keywords)
            self.init_quantizer(desc)

        def later(self) -> None:
            self.init_quantizer(QUANT_DESC_8BIT_PER_TENSOR)

    assert Doubled(quant_desc_input=QuantDescriptor(3)).input_quantizer.num_bits == 3
    assert not isinstance(quant_nn.QuantLinear(1, 1), _utils.QuantInputMixin)
    assert isinstance(quant_nn.QuantMaxPool1d(2), _utils.QuantInputMixin)
    with pytest.raises(TypeError, match=r"^Unused keys"):
        Doubled(quant_desc_weight=QuantDescriptor(3))
    with pytest.raises(TypeError, match="must be called from __init__, and was from later"):
        Doubled().later()


def test_gradients_reach_weights_and_inputs_through_the_rounding() -> None:
    layer = quant_nn.QuantLinear(4, 3)
    x = normal(5, 4).requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    rows = dynamically_quantized(x).sum(0).expand(3, 4)
    torch.testing.assert_close(layer.weight.grad, rows)
    assert x.grad is not None
    assert bool((x.grad != 0).all())


LSTMS = [
    {"num_layers": layers, "bidirectional": both, "bias": bias, "batch_first": first}
    for layers, both, bias, first in (
        (1, False, True, False),
        (2, False, False, True),
        (2, True, True, False),
        (1, True, True, True),
    )
]


@pytest.mark.parametrize("options", LSTMS)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_a_disabled_lstm_is_the_float_one(
    options: dict[str, Any], given: bool, batched: bool
) -> None:
    quantized, floating = pair("LSTM", 5, 4, **options)
    runs = options["num_layers"] * (2 if options["bidirectional"] else 1)
    x = normal(3, 6, 5) if batched else normal(6, 5)
    rows = x.shape[0 if options["batch_first"] else 1] if batched else None
    shape = (runs, 4) if rows is None else (runs, rows, 4)
    hx = (normal(*shape, seed=2), normal(*shape, seed=3)) if given else None
    torch.testing.assert_close(off(quantized)(x, hx), floating(x, hx), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", LSTMS)
@pytest.mark.parametrize("given", [False, True])
def test_packed_sequences_of_any_order_come_back_in_theirs(
    options: dict[str, Any], given: bool
) -> None:
    quantized, floating = pair("LSTM", 5, 4, **options)
    packed = pack_sequence([normal(n, 5, seed=n) for n in (2, 6, 1, 4)], enforce_sorted=False)
    runs = options["num_layers"] * (2 if options["bidirectional"] else 1)
    hx = (normal(runs, 4, 4, seed=2), normal(runs, 4, 4, seed=3)) if given else None
    y, state = off(quantized)(packed, hx)
    expected, end = floating(packed, hx)
    assert isinstance(y, PackedSequence)
    for found, wanted in zip(unpack_sequence(y), unpack_sequence(expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(state, end, rtol=0, atol=1e-6)


def test_an_lstm_quantizes_x_and_h_together_and_both_weights_together() -> None:
    torch.manual_seed(0)
    lstm = quant_nn.QuantLSTM(5, 4).eval()
    lstm._input_quantizers[0].amax = 2.0
    x, h, c = normal(1, 3, 5), normal(1, 3, 4, seed=1), normal(1, 3, 4, seed=2)
    read = numpy_fake_quant(torch.cat([x[0], h[0]], 1).numpy(), 2.0)
    weight = dynamically_quantized(torch.cat([lstm.weight_ih_l0, lstm.weight_hh_l0], 1), 0)
    gates = torch.from_numpy(read) @ weight.t() + (lstm.bias_ih_l0 + lstm.bias_hh_l0)
    i, f, g, o = gates.chunk(4, 1)
    cell = f.sigmoid() * c[0] + i.sigmoid() * g.tanh()
    y, (_, end) = lstm(x, (h, c))
    torch.testing.assert_close(y[0], o.sigmoid() * cell.tanh())
    torch.testing.assert_close(end[0], cell)


def test_an_lstm_has_a_pair_of_quantizers_per_layer_and_direction() -> None:
    lstm = quant_nn.QuantLSTM(5, 4, 3, bidirectional=True)
    names = [
        name for name, each in lstm.named_modules() if isinstance(each, quant_nn.TensorQuantizer)
    ]
    kinds = ("_input_quantizers", "_weight_quantizers")
    assert names == [f"{kind}.{n}" for kind in kinds for n in range(6)]
    with pytest.raises(ValueError, match="proj_size=2 is not supported"):
        quant_nn.QuantLSTM(5, 4, proj_size=2)
    with pytest.raises(TypeError, match=r"^Unused keys"):
        quant_nn.QuantLSTM(5, 4, colour=1)


def test_dropout_between_layers_acts_in_training_only() -> None:
    quantized, _ = pair("LSTM", 5, 4, num_layers=2, dropout=0.5)
    off(quantized)
    x = normal(3, 2, 5)
    assert torch.equal(quantized(x)[0], quantized(x)[0])
    quantized.train()
    assert not torch.equal(quantized(x)[0], quantized(x)[0])


@pytest.mark.parametrize("shape", [(3, 5), (5,)])
def test_a_disabled_lstm_cell_is_the_float_one(shape: tuple[int, ...]) -> None:
    quantized, floating = pair("LSTMCell", 5, 4)
    off(quantized)
    x, state = normal(*shape), (normal(*shape[:-1], 4, seed=1), normal(*shape[:-1], 4, seed=2))
    for hx in (None, state):
        torch.testing.assert_close(quantized(x, hx), floating(x, hx), rtol=0, atol=1e-6)


def test_an_lstm_cell_that_quantizes_differs_a_little() -> None:
    quantized, floating = pair("LSTMCell", 5, 4)
    x = normal(3, 5)
    gap = (quantized(x)[0] - floating(x)[0]).abs().max()
    assert 0 < gap < 0.05


def test_clip_holds_values_and_gives_limits_their_gradients() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    low, high = torch.tensor(-1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    y = clip(x, low, high)
    y.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0]))
    assert y.tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 100.0, 0.0, 0.0]
    assert (low.grad, high.grad) == (11.0, 11000.0)


def test_limits_of_several_numbers_clip_but_cannot_learn() -> None:
    limits = torch.tensor([0.5, 1.0], requires_grad=True)
    y = clip(torch.full((2, 2), 3.0), -1.0, limits)
    assert y.tolist() == [[0.5, 1.0]] * 2
    with pytest.raises(ValueError, match="Learnable min/max can only be scalar"):
        y.sum().backward()


def test_the_clip_module_learns_what_it_is_told_to() -> None:
    module = quant_nn.Clip(-1.0, np.array([2.0]), learn_max=True)
    assert [name for name, _ in module.named_parameters()] == ["clip_value_max"]
    assert list(module.state_dict()) == ["clip_value_max"]
    assert module(torch.tensor([-5.0, 5.0])).tolist() == [-1.0, 2.0]
    for wrong in (torch.tensor(1.0), np.ones(2)):
        with pytest.raises(ValueError, match="must be scalar"):
            quant_nn.Clip(wrong, 1.0, learn_min=True)


def test_a_calibrated_model_compiles_into_one_graph() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(quant_nn.QuantConv2d(3, 4, 3), nn.ReLU(), quant_nn.QuantAvgPool2d(2))
    for quantizer in quantizers_of(model):
        quantizer.amax = 2.0 if quantizer.axis is None else torch.full((4, 1, 1, 1), 0.3)
    x = normal(1, 3, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its internals
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x))
        compiled(x).sum().backward()
    found = copy.deepcopy(model[0].weight.grad)
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(found, model[0].weight.grad)
