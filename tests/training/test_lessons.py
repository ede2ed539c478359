"""Steps and epochs: frozen BatchNorms, the rate of data without a length, and NaN."""

import math
from collections.abc import Iterator

import pytest
from torch import Tensor
from torch.nn import functional as F
from training_nets import TRAIN, changed, flags, norm_net, quantized, tune, values

from qdq.errors import TrainingError

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def test_batchnorm_statistics_move_only_when_asked_for() -> None:
    net = quantized(norm_net)
    before = values(net)
    tune(net, trainable="3", freeze_batchnorm=False)
    moved = {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert changed(net, before) == {"3.weight", "3.bias"} | moved


class Stream:
    """Batches without a length, as often as one likes."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from TRAIN


def test_data_without_a_length_changes_its_rate_once_an_epoch() -> None:
    report = tune(quantized(), train=Stream(), epochs=4, lr=0.1)
    want = [0.1 * (0.5 + 0.5 * math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert [row.lr for row in report.rows] == pytest.approx(want)


def test_a_generator_serves_one_epoch() -> None:
    assert len(tune(quantized(), train=iter(TRAIN)).rows) == 1


def test_a_loss_that_is_nan_names_the_step_and_leaves_the_model_as_it_was() -> None:
    net = quantized(norm_net)
    net[3].bias.requires_grad_(False)
    before, before_flags = values(net), flags(net)
    calls: list[int] = []

    def breaks(outputs: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return F.cross_entropy(outputs, target) * (math.nan if len(calls) == 11 else 1.0)

    with pytest.raises(TrainingError) as caught:
        tune(net, loss=breaks, epochs=3, lr=0.01, freeze_batchnorm=False)
    assert str(caught.value) == (
        "the loss is nan; the model has its weights from before the training again\n"
        "  at:  epoch 2, step 3\n"
        "  fix: lower lr=0.01, to a tenth for a start, or pass warmup_epochs="
    )
    assert changed(net, before) == set()
    assert flags(net) == before_flags
    assert not any(module.training for module in net.modules())


def test_a_last_step_that_breaks_a_weight_is_seen() -> None:
    net = quantized()
    before = values(net)

    def steep(outputs: Tensor, target: Tensor) -> Tensor:
        return outputs.mean().clamp(-1, 1) + (outputs * 0).sum().sqrt()  # slope of sqrt(0)

    with pytest.raises(TrainingError, match=r"^2\.bias holds NaN or infinity|weight holds NaN"):
        tune(net, train=TRAIN[:1], loss=steep)
    assert changed(net, before) == set()
