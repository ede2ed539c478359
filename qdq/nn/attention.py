"""Attention: one opaque function of torch, taken apart into products that can be quantized."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.nn.calls import QuantJoinCall, tensors_in, works
from qdq.sites import CALL_SITES


class QuantAttention(QuantJoinCall):
    """`F.scaled_dot_product_attention` with query, key, value and probabilities fake-quantized.

    While all of its quantizers are off the call is torch's own. Vaswani et al. 2017,
    "Attention Is All You Need", arXiv:1706.03762, sec. 3.2.1.
    """

    INPUTS = 4

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether query, key and value are tensors."""
        return len(tensors_in(args, kwargs)) >= 3

    def forward(
        self, func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """(..., L, E), (..., S, E), (..., S, V) -> (..., L, V)."""
        if not works(self):
            return func(*args, **kwargs)
        *inner, output = *self._input_quantizers, self._output_quantizer
        return output(attend(*args, **kwargs, quantizers=inner))  # type: ignore[no-any-return]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    quantizers: Sequence[Callable[[Tensor], Tensor]] = (nn.Identity(),) * 4,
) -> Tensor:
    """`F.scaled_dot_product_attention` in matrix products that every exporter knows.

    Args:
        query: (..., heads, L, E).
        key: (..., heads, S, E).
        value: (..., heads, S, V).
        attn_mask: broadcasts to (..., heads, L, S): True where to look, or what to add. A query
            that may look nowhere gets 0.
        dropout_p: of the probabilities.
        is_causal: look at no later key.
        scale: of the scores; None: 1 / sqrt(E).
        enable_gqa: key and value have fewer heads, each of which serves several queries.
        quantizers: of query, key, value and probabilities.
    """
    of_query, of_key, of_value, of_weights = quantizers
    q, k, v = of_query(query), of_key(key), of_value(value)
    if enable_gqa:
        k, v = (each.repeat_interleave(q.size(-3) // each.size(-3), -3) for each in (k, v))
    blind = None if attn_mask is None or is_causal else _blind(attn_mask)
    if is_causal:
        rows, columns = (torch.arange(each.size(-2), device=q.device) for each in (q, k))
        attn_mask = rows[:, None] >= columns  # opset 13 has no `tril`
    scores = q @ k.transpose(-2, -1) * (q.size(-1) ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores + as_bias(attn_mask, scores)
    weights = scores.softmax(-1)
    weights = weights if blind is None else weights.masked_fill(blind, 0.0)
    return of_weights(_dropped(weights, dropout_p)) @ v


def _blind(mask: Tensor) -> Tensor:
    """(..., L, 1): queries that may look nowhere, whose softmax is NaN."""
    hidden = ~mask if mask.dtype == torch.bool else mask == -math.inf
    return hidden.all(-1, keepdim=True)


def _dropped(x: Tensor, share: float) -> Tensor:
    return F.dropout(x, share) if share else x


def as_bias(mask: Tensor, like: Tensor) -> Tensor:
    """What a mask adds to the scores: itself, or minus infinity where a boolean one is False."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, -math.inf)


class QuantMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose products are calls of their own, which can be sites.

    While none of them is quantized it computes as its float class does, bit for bit.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the float class: (L, N, E), or (N, L, E) with batch_first, or (L, E)."""
        idle = hasattr(self, CALL_SITES) and not works(self)
        if idle and not torch.onnx.is_in_onnx_export():
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        batch_axis = 0 if self.batch_first or query.dim() == 2 else 1
        q, k, v = (
            self._heads(each, extra, batch_axis, query.dim() == 2)
            for each, extra in zip(
                self._project(query, key, value), (None, self.bias_k, self.bias_v), strict=True
            )
        )
        # Torch then drops the mask for the hint, which hides the keys that are added below.
        is_causal = is_causal and key_padding_mask is None and not need_weights
        bias = None if is_causal else self._bias(q, key_padding_mask, attn_mask)
        if self.add_zero_attn:
            k, v = (F.pad(each, (0, 0, 0, 1)) for each in (k, v))
        added = int(self.bias_k is not None) + int(self.add_zero_attn)
        if bias is not None and added:  # what is added to the keys may always be looked at
            bias = F.pad(bias, (0, added))
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (scores if bias is None else scores + bias).softmax(-1)
            mixed = _dropped(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights[0] if query.dim() == 2 else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, bias, dropout, is_causal)
        mixed = mixed.transpose(1, 2).flatten(2)
        mixed = mixed[0] if query.dim() == 2 else mixed.transpose(0, batch_axis)
        return F.linear(mixed, self.out_proj.weight, self.out_proj.bias), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values; of one and the same tensor in one product."""
        bias = self.in_proj_bias
        if self._qkv_same_embed_dim and key is query and value is query:
            return F.linear(query, self.in_proj_weight, bias).chunk(3, -1)
        weights = (
            self.in_proj_weight.chunk(3)
            if self._qkv_same_embed_dim
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = (None, None, None) if bias is None else bias.chunk(3)
        of_three = zip((query, key, value), weights, biases, strict=True)
        return [F.linear(x, weight, offset) for x, weight, offset in of_three]

    def _heads(self, x: Tensor, extra: Tensor | None, batch_axis: int, unbatched: bool) -> Tensor:
        """(N, heads, L, E / heads); `extra`, (1, 1, E), follows the last of L."""
        x = x.unsqueeze(0) if unbatched else x.transpose(0, batch_axis)
        if extra is not None:
            x = torch.cat([x, extra.expand(x.size(0), -1, -1)], 1)
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def _bias(self, q: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores (N, heads, L, S); True in a mask means: do not look."""
        biases = []
        if mask is not None:
            bias = as_bias(~mask if mask.dtype == torch.bool else mask, q)
            one_each = (-1, self.num_heads, *bias.shape[-2:])
            biases.append(bias if bias.dim() == 2 else bias.view(one_each))
        if padding is not None:
            bias = as_bias(~padding if padding.dtype == torch.bool else padding, q)
            biases.append(bias.view(-1, 1, 1, bias.size(-1)))
        return reduce(torch.add, biases) if biases else None
