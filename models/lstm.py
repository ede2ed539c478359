"""An LSTM language model in plain torch."""

from torch import Tensor, nn


class LstmLanguageModel(nn.Module):
    """Embedding, LSTM and a linear layer that scores the next token at every place.

    Every row starts from a zero state: rows are independent pieces of text.

    Shapes:
        input:  (N, T) int64, tokens in 0..vocab - 1; T is free
        output: (N, T, vocab) logits of the token after each place

    Zaremba et al. 2014, "Recurrent Neural Network Regularization", arXiv:1409.2329, sec. 3; tied
    weights: Press and Wolf 2016, arXiv:1608.05859.
    """

    def __init__(
        self,
        vocab: int,
        *,
        width: int = 200,
        layers: int = 2,
        dropout: float = 0.2,
        tied: bool = False,
    ) -> None:
        """Build the layers with torch's default initial weights.

        Args:
            vocab: Number of different tokens.
            width: Of the embedding and of the LSTM's state.
            layers: LSTMs on top of each other.
            dropout: Share of the values dropped before, between and after them in training.
            tied: Let the output layer use the embedding's own weight.
        """
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.dropout = nn.Dropout(dropout)
        between = dropout if layers > 1 else 0.0  # torch warns of a dropout between one layer
        self.lstm = nn.LSTM(width, width, layers, dropout=between, batch_first=True)
        self.output = nn.Linear(width, vocab)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T) to logits (N, T, vocab)."""
        x, _ = self.lstm(self.dropout(self.embedding(tokens)))
        logits: Tensor = self.output(self.dropout(x))
        return logits


def lstm_language_model(vocab: int = 33_278, *, tied: bool = False) -> LstmLanguageModel:
    """Two layers of width 200; WikiText-2 has 33,278 different words."""
    return LstmLanguageModel(vocab, tied=tied)
