"""A small transformer encoder that classifies token sequences, in plain torch."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransformerClassifier(nn.Module):
    """Embedding, encoder blocks, the mean over all places, and a linear layer.

    Shapes:
        input:  (N, T) int64, tokens in 0..vocab - 1; T is free up to max_length
        output: (N, num_classes) logits

    Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, sec. 3; learned positions,
    GELU and the normalized embedding are BERT's: Devlin et al. 2018, arXiv:1810.04805.
    """

    def __init__(
        self,
        vocab: int,
        *,
        num_classes: int = 2,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        max_length: int = 512,
        torch_attention: bool = False,
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            vocab: Number of different tokens.
            num_classes: Width of the output.
            width: Of a token's vector; a multiple of `heads`.
            heads: Attentions side by side.
            layers: Encoder blocks.
            max_length: Longest sequence.
            torch_attention: Use `nn.MultiheadAttention` instead of four linear layers and matmuls.

        Raises:
            ValueError: width is no multiple of heads.
        """
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width={width} cannot be shared among heads={heads}\n"
                f"  fix: pass width={width // heads * heads or heads} or another number of heads"
            )
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(max_length, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(
            *(EncoderBlock(width, heads, torch_attention=torch_attention) for _ in range(layers))
        )
        self.output = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, num_classes)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.norm(self.tokens(tokens) + self.positions(places)))
        logits: Tensor = self.output(x.mean(1))
        return logits


class EncoderBlock(nn.Module):
    """Attention, then two linear layers with GELU; each added to its input, then normalized."""

    def __init__(self, width: int, heads: int, *, torch_attention: bool) -> None:
        """Build the layers; see `TransformerClassifier`."""
        super().__init__()
        attention = TorchAttention if torch_attention else Attention
        self.attention = attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, width) to the same shape."""
        x = self.norm1(x + self.attention(x))
        y = self.linear2(F.gelu(self.linear1(x)))
        result: Tensor = self.norm2(x + y)
        return result


class Attention(nn.Module):
    """Self-attention out of linear layers, matmuls and a softmax (sec. 3.2.2 of the paper)."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the layers."""
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, width) to the same shape."""
        q, k, v = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(2, 3) * self.scale, -1)
        result: Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, heads, T, width / heads)."""
        N, T, width = x.shape
        return x.view(N, T, self.heads, width // self.heads).transpose(1, 2)


class TorchAttention(nn.Module):
    """Self-attention by `nn.MultiheadAttention`.

    In an ONNX file of torch's TorchScript exporter its sequence length is that of the example, and
    the export must run with gradients on, or torch takes a fused kernel that ONNX has not.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Build the layer."""
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, width) to the same shape."""
        # Asked for the weights, torch multiplies and sums itself, which ONNX has before opset 14.
        result, _ = self.attention(x, x, x, need_weights=True)
        return result  # type: ignore[no-any-return]


def transformer_classifier(vocab: int = 10_000, num_classes: int = 2) -> TransformerClassifier:
    """Two blocks of width 128 with four heads, written in plain operations."""
    return TransformerClassifier(vocab, num_classes=num_classes)
