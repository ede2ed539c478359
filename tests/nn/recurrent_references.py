"""Recurrent layers in numpy, written apart, and what their tests share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdq.nn import QuantGRU, QuantLSTM, TensorQuantizer

Array = NDArray[Any]
TWINS = {nn.LSTM: QuantLSTM, nn.GRU: QuantGRU}
IN, HIDDEN = 3, 4


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def twin(float_class: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    """(float layer, the same layer after its class was swapped), with equal parameters."""
    torch.manual_seed(0)
    plain = float_class(*(args or (IN, HIDDEN)), **options)
    torch.manual_seed(0)
    layer = float_class(*(args or (IN, HIDDEN)), **options)
    layer.__class__ = TWINS[float_class]
    layer.add_quantizers()
    return plain, layer


def passing(layer: nn.Module) -> Any:
    """Let every quantizer pass x on, through the quantized forward all the same."""
    for quantizer in layer.modules():
        if isinstance(quantizer, TensorQuantizer):
            quantizer.observer = lambda _site, _x: None
    return layer


def ranged(layer: Any, *amax: float) -> Any:
    """Give input k the range amax[k]; the last of them serves the rest too."""
    for k, quantizer in enumerate(layer._input_quantizers):
        quantizer.set_range(None, amax[min(k, len(amax) - 1)])
    return layer


def tensors(result: Any) -> list[Tensor]:
    """Every tensor of a result, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for each in result if each is not None for tensor in tensors(each)]


def furthest(found: Any, wanted: Any) -> float:
    """The largest difference between results of one structure and one shape."""
    pairs = list(zip(tensors(found), tensors(wanted), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def rounded(x: Array, amax: float) -> Array:
    """On the int8 grid of a tensor; scales and quotients are float32 as in onnxruntime."""
    scale = np.float32(amax) / np.float32(127)
    return np.clip(np.rint(x.astype(np.float32) / scale), -128, 127) * scale


def rounded_rows(weight: Tensor) -> Array:
    """On the int8 grid of each row, -127..127."""
    w = weight.detach().numpy().astype(np.float32)
    scale = np.abs(w).max(1, keepdims=True) / np.float32(127)
    return np.clip(np.rint(w / scale), -127, 127) * scale


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm_gates(x: Array, h: Array, state: list[Array]) -> list[Array]:
    i, f, g, o = np.split(x + h, 4, axis=1)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru_gates(x: Array, h: Array, state: list[Array]) -> list[Array]:
    x_r, x_z, x_n = np.split(x, 3, axis=1)
    h_r, h_z, h_n = np.split(h, 3, axis=1)
    z = sigmoid(x_z + h_z)
    return [(1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * state[0]]


Gates = Callable[[Array, Array, list[Array]], list[Array]]
GATES: dict[Any, tuple[Gates, int]] = {nn.LSTM: (lstm_gates, 2), nn.GRU: (gru_gates, 1)}


def over_time(
    float_class: Any, layer: Any, suffix: str, x: Array, amax_x: float, amax_h: float
) -> tuple[Array, list[Array]]:
    """One layer in one direction from a zero state: x (T, N, in) -> (T, N, H), last state."""
    gates, states = GATES[float_class]
    w_ih, w_hh = (rounded_rows(getattr(layer, f"weight_{each}{suffix}")) for each in ("ih", "hh"))
    b_ih, b_hh = (getattr(layer, f"bias_{each}{suffix}").detach().numpy() for each in ("ih", "hh"))
    state = [np.zeros((x.shape[1], layer.hidden_size))] * states
    ys = []
    for x_t in x[::-1] if suffix.endswith("_reverse") else x:
        from_x = rounded(x_t, amax_x) @ w_ih.T + b_ih
        from_h = rounded(state[0], amax_h) @ w_hh.T + b_hh
        state = gates(from_x, from_h, state)
        ys.append(state[0])
    return np.stack(ys[::-1] if suffix.endswith("_reverse") else ys), state
