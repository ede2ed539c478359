"""Lightning's loop: repeatable, silent, and interrupted without a trace."""

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_nets import VAL, X, changed, flags, norm_net, quantized, tune, values

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def dropout_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))


def test_equal_calls_give_equal_bytes_and_leave_the_random_generators_alone() -> None:
    rows = list(zip(X, torch.arange(256) % 4, strict=True))
    loader = torch.utils.data.DataLoader(rows, batch_size=64, shuffle=True)  # type: ignore[arg-type]
    results = []
    for luck, seed in ((1, 0), (2, 0), (3, 1)):
        net = quantized(dropout_net)
        torch.manual_seed(luck)
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        report = tune(net, train=loader, val=VAL, seed=seed, optimizer="adamw", epochs=2)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert np.random.get_state()[1].tolist() == states[2]
        results.append((values(net), report))
    assert all(torch.equal(each, results[1][0][name]) for name, each in results[0][0].items())
    assert results[0][1] == results[1][1]
    assert results[0][1] != results[2][1]


def stops_in_epoch(number: int, error: type[BaseException]) -> Any:
    calls: list[int] = []

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 8 * (number - 1) + 4:
            raise error("stop")
        return F.cross_entropy(outputs, target)

    return loss


@pytest.mark.parametrize(("epoch", "error", "kept"), [
    (1, KeyboardInterrupt, 0),
    (3, KeyboardInterrupt, 2),
    (3, ValueError, 0),
    (3, SystemExit, 0),
])  # fmt: skip
def test_an_interrupt_keeps_the_epochs_that_ended_and_an_error_none(
    epoch: int, error: type[BaseException], kept: int
) -> None:
    net = quantized(norm_net)
    net.train()  # modes are put back, whatever they were
    states = [values(net)]
    metric_calls = iter(range(100))

    def metric(outputs: Any, targets: Any) -> float:
        call = next(metric_calls)
        if call:
            states.append(values(net))
        return float(call)

    handler = signal.getsignal(signal.SIGINT)
    before = flags(net)
    with pytest.raises(error):
        tune(net, val=VAL, metric=metric, loss=stops_in_epoch(epoch, error), epochs=4)
    assert changed(net, states[kept]) == set()
    assert flags(net) == before
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert signal.getsignal(signal.SIGINT) is handler
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_it_says_nothing_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    tune(quantized(norm_net), val=VAL, epochs=2, progress=True)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
