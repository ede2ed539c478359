"""The LSTM language model: shapes, what it may see, and tied weights."""

import torch

from models.lstm import LstmLanguageModel, lstm_language_model


def tiny(*, tied: bool = False, layers: int = 2) -> LstmLanguageModel:
    torch.manual_seed(0)
    return LstmLanguageModel(11, width=6, layers=layers, tied=tied).eval()


def test_every_place_gets_one_logit_per_token() -> None:
    assert tiny()(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 11)
    assert tiny(layers=1)(torch.zeros(1, 1, dtype=torch.long)).shape == (1, 1, 11)


@torch.no_grad()
def test_no_place_sees_a_later_token() -> None:
    model, tokens = tiny(), torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 3, 9]])
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_tied_the_output_layer_is_the_embedding() -> None:
    model = tiny(tied=True)
    assert model.output.weight is model.embedding.weight
    sizes = [sum(p.numel() for p in tiny(tied=each).parameters()) for each in (False, True)]
    assert sizes[0] - sizes[1] == 11 * 6


def test_the_vocabulary_is_that_of_wikitext_2_unless_told_otherwise() -> None:
    assert lstm_language_model().output.out_features == 33_278
