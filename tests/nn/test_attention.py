"""Attention taken apart: against torch's own, and against products of rounded operands."""

import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
from call_nets import RANGES, Calling, draw, on_grid, sited
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.insertion.switches import disable_quantization, enable_quantization
from qdq.nn.attention import QuantMultiheadAttention, attend
from qdq.nn.calls import CallSite

Q, K, V = (draw(2, 4, size, 6, seed=size) for size in (3, 5, 5))
SEEN = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
BIAS = draw(3, 5, seed=9)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "boolean mask": {"attn_mask": SEEN},
    "float mask": {"attn_mask": BIAS},
    "mask of each head": {"attn_mask": draw(2, 4, 3, 5, seed=8)},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "causal and scale": {"is_causal": True, "scale": 1.0},
    "no dropout": {"dropout_p": 0.0},
}


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_taken_apart_it_is_torchs_own(name: str) -> None:
    close(
        attend(Q, K, V, **OPTIONS[name]), F.scaled_dot_product_attention(Q, K, V, **OPTIONS[name])
    )


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_keys_of_fewer_heads_serve_several_queries(heads: int) -> None:
    k, v = K[:, :heads], V[:, :heads]
    close(
        attend(Q, k, v, enable_gqa=True),
        F.scaled_dot_product_attention(Q, k, v, enable_gqa=True),
    )


@pytest.mark.parametrize("floating", [False, True])
def test_a_query_that_may_look_nowhere_gets_what_torch_gives_it(floating: bool) -> None:
    nowhere = SEEN.clone()
    nowhere[1] = False
    if floating:
        nowhere = BIAS.masked_fill(~nowhere, -math.inf)
    close(attend(Q, K, V, nowhere), F.scaled_dot_product_attention(Q, K, V, nowhere))


@pytest.mark.parametrize("hidden", [torch.finfo(torch.float32).min, -1e9])
def test_a_query_that_should_look_nowhere_and_still_does_is_averaged(hidden: float) -> None:
    mask = torch.zeros(3, 5)
    mask[1] = hidden
    close(attend(Q, K, V, mask), F.scaled_dot_product_attention(Q, K, V, mask))


@pytest.mark.parametrize("opset", [13, 17])
def test_a_causal_one_of_any_length_exports_in_products(opset: int) -> None:
    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return attend(x, x, x, is_causal=True)

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Causal(), (Q,), buffer, opset_version=opset, dynamo=False, input_names=["x"],
            dynamic_axes={"x": {2: "length"}},
        )  # fmt: skip
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for x in (Q, K):
        (got,) = session.run(None, {"x": x.numpy()})
        close(torch.from_numpy(got), F.scaled_dot_product_attention(x, x, x, is_causal=True))


def test_gradients_are_those_of_torchs_own() -> None:
    mine, torchs = ([x.clone().requires_grad_() for x in (Q, K, V)] for _ in range(2))
    attend(*mine, BIAS).square().sum().backward()
    F.scaled_dot_product_attention(*torchs, BIAS).square().sum().backward()
    for got, want in zip(mine, torchs, strict=True):
        assert got.grad is not None
        assert want.grad is not None
        close(got.grad, want.grad)


def test_dropout_leaves_out_as_many_probabilities_as_it_says() -> None:
    torch.manual_seed(0)
    ones = torch.ones(1, 1, 64, 64)
    found = attend(ones, ones, torch.eye(64)[None, None], dropout_p=0.25)
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert found[found > 0].unique().tolist() == pytest.approx([1 / 64 / 0.75])


CALLS: dict[str, Callable[..., Tensor]] = {
    "positional": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "keywords": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v),
    "mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, BIAS),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_query_key_value_and_probabilities_are_quantized(name: str) -> None:
    model = Calling(CALLS[name])
    found = sited(model, Q, K, V)
    q, k, v = (on_grid(x, amax) for x, amax in zip((Q, K, V), RANGES, strict=False))
    scores = q @ k.transpose(-2, -1) / math.sqrt(6)
    if name == "mask":
        scores = scores + BIAS
    if name == "causal":
        scores = scores.masked_fill(~torch.ones(3, 5).tril().bool(), -math.inf)
    assert found == (CallSite("attention_0", "attention", 4),)
    close(model(Q, K, V), on_grid(scores.softmax(-1), 1.0) @ v)


@pytest.mark.parametrize("name", CALLS)
def test_switched_off_the_call_is_torchs_own_bit_for_bit(name: str) -> None:
    model = Calling(CALLS[name])
    sited(model, Q, K, V)
    with disable_quantization(model):
        assert torch.equal(model(Q, K, V), CALLS[name](Q, K, V))


def test_one_quantizer_that_is_on_is_enough_to_take_it_apart() -> None:
    model = Calling(CALLS["positional"])
    sited(model, Q, K, V)
    disable_quantization(model)
    enable_quantization(model, "attention_0.input_2")
    v = on_grid(V, RANGES[2])
    close(model(Q, K, V), F.scaled_dot_product_attention(Q, K, v))


# nn.MultiheadAttention

SIZE, HEADS, LONG = 8, 2, 5
PADDING = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]], dtype=torch.bool)
HIDDEN = torch.ones(LONG, LONG, dtype=torch.bool).triu(1)
BLIND = torch.zeros(LONG, LONG).index_fill(0, torch.tensor([1]), -math.inf)
PER_HEAD = draw(3 * HEADS, LONG, LONG, seed=3)


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(SIZE, HEADS, **options).eval()
    for name, parameter in made.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    return made


def given(layer: nn.MultiheadAttention, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value: one tensor, one and another, or three, in the layer's own layout."""
    x = draw(3, LONG, SIZE, seed=1)
    y, z = draw(3, LONG, layer.kdim, seed=2), draw(3, LONG, layer.vdim, seed=3)
    three = {"self": (x, x, x), "cross": (x, y, y), "three": (x, y, z)}[kind]
    made: dict[int, Tensor] = {}  # one and the same tensor stays one
    for each in three:
        made.setdefault(id(each), each if layer.batch_first else each.transpose(0, 1))
    return tuple(made[id(each)] for each in three)  # type: ignore[return-value]


def opened(layer: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """The layer as its twin, with no call quantized yet: every product by itself."""
    layer.__class__ = QuantMultiheadAttention
    return layer


LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "self": ({}, "self"),
    "self, batch first": ({"batch_first": True}, "self"),
    "cross": ({}, "cross"),
    "cross, batch first": ({"batch_first": True}, "cross"),
    "three": ({"batch_first": True}, "three"),
    "no bias": ({"bias": False}, "self"),
    "own sizes": ({"kdim": 6, "vdim": 7, "batch_first": True}, "three"),
    "own sizes, no bias": ({"kdim": 6, "vdim": 7, "bias": False}, "three"),
    "a key more": ({"add_bias_kv": True}, "self"),
    "a zero key more, batch first": ({"add_zero_attn": True, "batch_first": True}, "cross"),
    "two keys more": ({"add_bias_kv": True, "add_zero_attn": True}, "three"),
}
CALLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "each head": {"average_attn_weights": False},
    "no weights": {"need_weights": False},
    "boolean mask": {"attn_mask": HIDDEN},
    "float mask": {"attn_mask": draw(LONG, LONG, seed=4)},
    "mask per head": {"attn_mask": PER_HEAD},
    "boolean mask per head": {"attn_mask": PER_HEAD > 1},
    "padding": {"key_padding_mask": PADDING},
    "float padding": {"key_padding_mask": draw(3, LONG, seed=5)},
    "both": {"key_padding_mask": PADDING, "attn_mask": HIDDEN},
    "both, no weights": {
        "key_padding_mask": PADDING,
        "attn_mask": HIDDEN,
        "need_weights": False,
    },
    "causal": {"attn_mask": HIDDEN, "is_causal": True, "need_weights": False},
    "blind": {"attn_mask": BLIND, "need_weights": False},
    "blind, boolean": {"attn_mask": BLIND < 0, "need_weights": False},
    "blind, with weights": {"attn_mask": BLIND},
    "blind padding": {"key_padding_mask": PADDING | (torch.arange(3) == 1)[:, None]},
}


def same(got: Any, want: Any) -> None:
    close(got[0], want[0])
    assert (got[1] is None) == (want[1] is None)
    if want[1] is not None:
        close(got[1], want[1])


@pytest.mark.parametrize("call", CALLED)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_taken_apart_computes_what_torchs_own_does(layer: str, call: str) -> None:
    options, kind = LAYERS[layer]
    made = attention(**options)
    inputs = given(made, kind)
    want = made(*inputs, **CALLED[call])
    same(opened(made)(*inputs, **CALLED[call]), want)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": HIDDEN},
        {"attn_mask": PER_HEAD[:HEADS]},
        {"key_padding_mask": PADDING[0]},
    ],
)
def test_a_sequence_without_a_batch_is_one_too(options: dict[str, Any]) -> None:
    for batch_first in (False, True):
        made, x = attention(batch_first=batch_first), draw(LONG, SIZE)
        want = made(x, x, x, **options)
        same(opened(made)(x, x, x, **options), want)


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_a_layer_with_keys_of_its_own_has_the_sites_of_any_other(option: str) -> None:
    x = draw(LONG, 3, SIZE)
    model = Calling(lambda x: model.inner(x, x, x, need_weights=False)[0])
    model.inner = opened(attention(**{option: True}))
    names = [each.name for each in sited(model, x)]
    assert names == ["inner.linear_0", "inner.attention_0", "inner.linear_1"]


def test_gradients_of_a_layer_taken_apart_are_those_of_torchs_own() -> None:
    made, x = attention(), draw(LONG, 3, SIZE)
    found = []
    for each in (made, opened(attention())):
        each(x, x, x, key_padding_mask=PADDING)[0].square().sum().backward()
        found.append({name: p.grad for name, p in each.named_parameters()})
    for name, want in found[0].items():
        assert want is not None
        torch.testing.assert_close(found[1][name], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call", CALLED)
@pytest.mark.parametrize("layer", ["self, batch first", "own sizes", "two keys more"])
def test_with_its_sites_off_a_layer_is_torchs_own_bit_for_bit(layer: str, call: str) -> None:
    options, kind = LAYERS[layer]
    made = attention(**options)
    inputs = given(made, kind)
    model = Calling(lambda q, k, v: model.inner(q, k, v, **CALLED[call])[0])
    model.inner = opened(made)
    want = attention(**options)(*inputs, **CALLED[call])[0]
    sites = {each.name for each in sited(model, *inputs)}
    assert {"inner.linear_0", "inner.linear_1"} <= sites
    with disable_quantization(model):
        assert torch.equal(model(*inputs).nan_to_num(99.0), want.nan_to_num(99.0))
