"""The transformer: any length, and its attention is torch's."""

import pytest
import torch

from models.transformer import (
    Attention,
    TorchAttention,
    TransformerClassifier,
    transformer_classifier,
)


@pytest.mark.parametrize("torch_attention", [True, False])
@pytest.mark.parametrize("length", [1, 7, 16])
def test_a_sequence_of_any_length_gives_one_logit_per_class(
    length: int, torch_attention: bool
) -> None:
    model = TransformerClassifier(
        11, num_classes=3, width=8, heads=2, max_length=16, torch_attention=torch_attention
    )
    assert model.eval()(torch.zeros(2, length, dtype=torch.long)).shape == (2, 3)


@torch.no_grad()
def test_both_attentions_compute_the_same() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2).eval(), TorchAttention(8, 2).eval()
    parts = (ours.query, ours.key, ours.value)
    theirs.attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.attention.out_proj.weight.copy_(ours.output.weight)
    theirs.attention.out_proj.bias.copy_(ours.output.bias)
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_the_order_of_tokens_matters() -> None:
    torch.manual_seed(0)
    model = transformer_classifier(vocab=11).eval()
    forth, back = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[3, 2, 1]]))
    assert not torch.allclose(forth, back)


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="width=10 cannot be shared among heads=4") as caught:
        TransformerClassifier(11, width=10, heads=4)
    assert "\n  fix: pass width=8 or another number of heads" in str(caught.value)
