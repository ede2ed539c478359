"""Migration takes a LayerNorm's outlier channels out of the activations, to the same bits."""

import copy

import pytest
import torch
from torch import Tensor, nn

from qdq.calibration.choosing import calibrate
from qdq.errors import StepError
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization
from qdq.numerics.distance import sqnr
from qdq.repair.migration import migrate_outliers

OUTLIER = 5


class Block(nn.Module):
    """A gated layer on normalized tokens, of which one channel is far larger than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.value, self.gate = nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            self.norm.weight[OUTLIER] = 60
            self.value.weight[:, OUTLIER] /= 60
            self.gate.weight[:, OUTLIER] /= 60

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.head(torch.tanh(self.value(y)) * torch.sigmoid(self.gate(y)))


class Residual(Block):
    """The same, but what was normalized is added to what is made of it, and read once more."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.head(torch.softmax(y + self.value(y), -1))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 6, 32, generator=generator) for _ in range(2)]


def inserted(net: type[nn.Module] = Block, target: str = "onnxruntime") -> nn.Module:
    torch.manual_seed(0)
    model = net().eval()
    insert(model, batches()[0], target=target)
    return model


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches()])


def float_outputs(model: nn.Module) -> Tensor:
    with disable_quantization(model):
        return outputs(model)


def logits_db(model: nn.Module) -> float:
    calibrate(model, batches(), progress=False)
    return sqnr(float_outputs(model).numpy(), outputs(model).numpy())


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_an_outlier_channel_no_longer_costs_the_others_their_codes(target: str) -> None:
    model = inserted(target=target)
    before = logits_db(copy.deepcopy(model))
    migrate_outliers(model, batches(), progress=False)
    assert logits_db(model) > before + 6


def test_the_float_model_computes_the_same_bits() -> None:
    model = inserted()
    before = float_outputs(model)
    rows = migrate_outliers(model, batches(), progress=False)
    assert torch.equal(float_outputs(model), before)
    assert {row.layer for row in rows} == {"value", "gate"}
    assert all(row.method == "migration" and row.after_db > row.before_db for row in rows)


def test_norm_and_readers_change_by_the_same_powers_of_two() -> None:
    model = inserted()
    fresh = copy.deepcopy(model)
    migrate_outliers(model, batches(), progress=False)

    def ratio(name: str) -> Tensor:
        return model.get_parameter(name).detach() / fresh.get_parameter(name).detach()

    factors = 1 / ratio("norm.weight")
    assert torch.equal(factors.log2(), factors.log2().round())
    assert factors.argmax() == OUTLIER
    for name in ("value.weight", "gate.weight"):
        assert torch.equal(ratio(name), factors.expand(32, 32))
    assert torch.equal(ratio("head.weight"), torch.ones(10, 32))


def test_a_norm_that_something_else_reads_too_is_left_alone() -> None:
    model = inserted(Residual)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    assert migrate_outliers(model, batches(), progress=False) == ()
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(StepError, match="migrate_outliers needs the model in eval mode"):
        migrate_outliers(inserted().train(), batches(), progress=False)
