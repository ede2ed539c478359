"""Fine-tuning as a whole: what it gains, what it leaves alone, what it refuses."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_nets import TRAIN, VAL, X, accuracy, blobs, changed, quantized, trained, tune, values

from qdq.calibration.choosing import calibrate
from qdq.errors import CalibrationError, QdqError, StepError
from qdq.export.writing import export_onnx
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def test_it_wins_back_what_two_bit_weights_lose() -> None:
    exact = accuracy(trained())
    net = quantized(bits=2)
    before = accuracy(net)
    report = tune(net, val=VAL, epochs=4)
    after = accuracy(net)
    assert before < exact - 0.03
    assert after > before + 0.02
    assert report.before == pytest.approx(before)
    assert report.rows[report.best_epoch - 1].val_metric == pytest.approx(after)
    assert (report.target, report.loss, report.metric_name) == ("tensorrt", "cross_entropy", "top1")
    assert (report.parameters, report.tensors, len(report.rows)) == (212, 4, 4)


def test_it_is_sgd_through_the_rounding_step_by_step() -> None:
    net, twin = quantized(), quantized()
    report = tune(net, epochs=2, lr=0.05, momentum=0.9, weight_decay=1e-3, warmup_epochs=0.5)
    learned = list(twin.parameters())
    speed = [torch.zeros_like(each) for each in learned]
    for step in range(16):
        lr = 0.05 * (
            (step + 1) / 5 if step < 4 else 0.5 + 0.5 * math.cos(math.pi * (step - 4) / 12)
        )
        x, y = TRAIN[step % 8]
        slopes = torch.autograd.grad(F.cross_entropy(twin(x), y), learned)
        with torch.no_grad():
            for weight, slope, held in zip(learned, slopes, speed, strict=True):
                held.mul_(0.9).add_(slope + 1e-3 * weight)
                weight -= lr * held
        if step % 8 == 0:
            assert report.rows[step // 8].lr == pytest.approx(lr)
    for got, want in zip(net.parameters(), learned, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_ranges_and_switches_of_every_site_are_as_calibrated() -> None:
    net = quantized(bits=3, target="onnxruntime")
    sites = quantizers(net)
    held = {site: (q.amin, q.amax, q.on, q.spec) for site, q in sites.items()}
    tune(net, train=[blobs(64, 9)], lr=0.5)
    for site, (amin, amax, on, spec) in held.items():
        now = sites[site]
        assert (now.on, now.spec) == (on, spec)
        assert now.amax is amax
        assert now.amin is amin or torch.equal(now.amin, amin)


def test_dictionaries_with_labels_train_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 4)

        def forward(self, points: Tensor) -> Tensor:
            return self.head(points)  # type: ignore[no-any-return]

    data = [{"points": x, "labels": y} for x, y in TRAIN]
    net = Named().eval()
    insert(net, {"points": X[:2]})
    calibrate(net, data, progress=False)
    assert tune(net, train=data, lr=0.1, epochs=3).rows[-1].train_loss < 1.0


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_file_computes_what_the_tuned_model_computes(tmp_path: Path, target: str) -> None:
    net = quantized(bits=8, target=target)
    before = values(net)
    tune(net, epochs=2, lr=0.05)
    assert {"0.weight", "2.weight"} <= changed(net, before)
    path = tmp_path / "net.onnx"
    export_onnx(net, X[:2], path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": X.numpy()})
    want = net(X).detach().numpy()
    step = float(np.abs(want).max()) / 127
    assert np.abs(got - want).max() <= 2 * step  # a tie in the hidden codes may fall either way
    assert np.mean(np.abs(got - want) > 1e-5 * np.abs(want).max()) < 0.02


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(StepError) as caught:
        tune(quantized())
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("fine-tuning runs on Lightning, which cannot be imported: ")
    assert lines[1] == "  fix: pip install 'qdq[train]'"


def uncalibrated() -> nn.Module:
    net = trained()
    insert(net, X[:2])
    return net


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (
            trained,
            StepError,
            "this model has no quantizers\n"
            "  at:  Sequential\n"
            "  fix: call qdq.insert(model, example_inputs) first",
        ),
        (
            uncalibrated,
            CalibrationError,
            "2 active sites have no range yet\n"
            "  at:  0.input, 2.input\n"
            "  fix: run qdq.calibrate(model, data) first, with data that reaches them",
        ),
    ],
)
def test_a_model_that_is_not_ready_is_refused(build: Any, error: type[QdqError], text: str) -> None:
    with pytest.raises(error) as caught:
        tune(build())
    assert str(caught.value) == text
