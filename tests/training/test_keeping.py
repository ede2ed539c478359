"""Which weights the model ends with."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from torch.nn import functional as F
from training_nets import VAL, changed, linear_net, quantized, tune, values

from qdq.insertion.checkpoints import load
from qdq.records.training import FinetuneReport

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def test_the_best_epoch_is_kept_in_the_model_and_on_disk(tmp_path: Path) -> None:
    net = quantized()
    seen: list[dict[str, Tensor]] = []
    marks = iter([0.5, 0.6, 0.9, 0.9, math.nan, 0.7])

    def metric(outputs: Any, targets: Any) -> float:
        assert outputs.shape == (256, 4)
        assert targets.shape == (256,)
        seen.append(values(net))
        return next(marks)

    path = tmp_path / "best.safetensors"
    report = tune(net, val=VAL, epochs=5, metric=metric, checkpoint=path)
    assert report.best_epoch == 2
    assert report.before == 0.5
    assert [row.epoch for row in report.rows] == [1, 2, 3, 4, 5]
    assert [row.val_metric for row in report.rows][:3] == [0.6, 0.9, 0.9]
    assert changed(net, seen[2]) == set()
    assert changed(net, seen[5]) != set()
    fresh = linear_net().eval()
    load(fresh, path)
    assert changed(fresh, values(net)) == set()
    assert [each.name for each in tmp_path.iterdir()] == ["best.safetensors"]
    assert str(report) == (
        "tensorrt: trained 212 parameters in 4 tensors for 5 epochs; "
        "metric 0.5 -> 0.9 after epoch 2"
    )


def test_a_training_that_only_harms_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    net = quantized(bits=8)
    before = values(net)

    def away(outputs: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(outputs, target)

    report = tune(net, val=VAL, loss=away, metric=lambda o, t: np.mean(o.argmax(1) == t), lr=0.3,
                  epochs=2, checkpoint=tmp_path / "same.safetensors")  # fmt: skip
    assert report.best_epoch == 0
    assert changed(net, before) == set()
    assert (tmp_path / "same.safetensors").exists()
    assert str(report).endswith("the weights are as before")


def test_without_validation_the_last_epoch_is_kept() -> None:
    net, twin = quantized(), quantized()
    rising = iter(range(100))
    report = tune(net, epochs=2)
    tune(twin, val=VAL, epochs=2, metric=lambda *_: float(next(rising)))
    assert report.best_epoch == 2
    assert changed(net, values(twin)) == set()
    assert (report.metric_name, report.before, report.rows[0].val_metric) == ("", None, None)
    assert re.search(r"for 2 epochs; loss \S+ -> \S+$", str(report))


def test_another_loss_is_measured_by_itself_larger_is_better() -> None:
    net = quantized()

    def squares(outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - F.one_hot(target, 4).float()).square().mean()

    report = tune(net, val=VAL, loss=squares, epochs=2)
    want = -float(squares(net(VAL[0][0]), VAL[0][1]).detach())
    assert report.metric_name == "-squares"
    assert report.rows[report.best_epoch - 1].val_metric == pytest.approx(want)
    assert FinetuneReport.from_dict(report.to_dict()) == report
