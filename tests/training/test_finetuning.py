"""Fine-tuning: what it gains, what it leaves alone, and how it ends when it ends badly."""

import copy
import math
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_nets import (
    TRAIN,
    VAL,
    X,
    accuracy,
    blobs,
    changed,
    linear_net,
    norm_net,
    quantized,
    trained,
    values,
)

from qdq.calibration.choosing import calibrate
from qdq.errors import (
    CalibrationError,
    InputError,
    PolicyError,
    QdqError,
    RegistryError,
    StepError,
    TrainingError,
)
from qdq.export.writing import export_onnx
from qdq.insertion.checkpoints import load
from qdq.insertion.replacing import insert
from qdq.insertion.switches import quantizers
from qdq.nn import QuantLinear
from qdq.records.training import FinetuneReport
from qdq.training.finetuning import finetune

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def tune(net: nn.Module, train: Any = TRAIN, val: Any = None, **changes: Any) -> FinetuneReport:
    usual: dict[str, Any] = {"loss": "cross_entropy", "epochs": 1, "lr": 0.01, "progress": False}
    return finetune(net, train, val, **usual | changes)


def flags(net: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in net.parameters()]


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


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        ("3", {"3.weight", "3.bias"}),
        ("*.bias", {"0.bias", "2.bias", "3.bias"}),
        (nn.BatchNorm1d, {"2.weight", "2.bias"}),
        (["re:^0", "3.bias"], {"0.weight", "0.bias", "3.bias"}),
        (QuantLinear, {"0.weight", "0.bias", "3.weight", "3.bias"}),
    ],
)
def test_only_what_is_chosen_changes_ranges_and_statistics_included(
    trainable: Any, names: set[str]
) -> None:
    net = quantized(norm_net, bits=3)
    before = values(net)
    assert {"0._input_quantizer._amax", "2.running_mean"} <= set(before)
    report = tune(net, trainable=trainable)
    assert changed(net, before) == names
    assert report.tensors == len(names)


def test_flags_gradients_and_buffers_are_as_before_and_the_model_is_in_eval_mode() -> None:
    net = quantized(norm_net)
    frozen: Any = net[0]
    frozen.bias.requires_grad_(False)
    held = net[3].weight.grad = torch.ones_like(net[3].weight)
    before, before_values = flags(net), values(net)
    net.train()
    tune(net, trainable=["0", "2"])
    assert flags(net) == before
    assert net[3].weight.grad is held
    assert torch.equal(held, torch.ones_like(held))
    assert net[0].weight.grad is None
    assert not any(module.training for module in net.modules())
    assert changed(net, before_values) == {"0.weight", "2.weight", "2.bias"}  # not the frozen bias


def test_batchnorm_statistics_move_only_when_asked_for() -> None:
    net = quantized(norm_net)
    before = values(net)
    tune(net, trainable="3", freeze_batchnorm=False)
    moved = {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert changed(net, before) == {"3.weight", "3.bias"} | moved


def test_a_tied_weight_is_chosen_by_any_of_its_names_and_counted_once() -> None:
    net = quantized(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    net[2].weight = net[0].weight
    before = values(net)
    report = tune(net, trainable="*.weight")
    assert (report.tensors, report.parameters) == (1, 64)
    assert changed(net, before) == {"0.weight", "2.weight"}
    assert changed(net, before) == {"0.weight", "2.weight"}
    assert net[2].weight is net[0].weight
    assert tune(net, trainable="2.weight").tensors == 1


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

    report = tune(net, val=VAL, loss=away, metric=lambda o, t: np.mean(o.argmax(1) == t), epochs=2,
                  checkpoint=tmp_path / "same.safetensors")  # fmt: skip
    assert report.best_epoch == 0
    assert changed(net, before) == set()
    assert (tmp_path / "same.safetensors").exists()
    assert str(report).endswith("the weights are as before")


def test_without_validation_the_last_epoch_is_kept() -> None:
    net, twin = quantized(), quantized()
    report = tune(net, epochs=2)
    tune(twin, val=VAL, epochs=2, metric=lambda *_: float(next(rising)))
    assert report.best_epoch == 2
    assert changed(net, values(twin)) == set()
    assert (report.metric_name, report.before, report.rows[0].val_metric) == ("", None, None)
    assert re.search(r"for 2 epochs; loss \S+ -> \S+$", str(report))


rising = iter(range(100))


def test_another_loss_is_measured_by_itself_larger_is_better() -> None:
    net = quantized()

    def squares(outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - F.one_hot(target, 4).float()).square().mean()

    report = tune(net, val=VAL, loss=squares, epochs=2)
    want = -float(squares(net(VAL[0][0]), VAL[0][1]))
    assert report.metric_name == "-squares"
    assert report.rows[report.best_epoch - 1].val_metric == pytest.approx(want)
    assert FinetuneReport.from_dict(report.to_dict()) == report


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


def test_a_teacher_alone_needs_no_targets_and_is_left_alone() -> None:
    teacher, net = trained(), quantized()
    before = values(teacher)
    inputs = [x for x, _ in TRAIN]

    def apart() -> float:
        return float((net(X).softmax(1) - teacher(X).softmax(1)).abs().mean())

    gap = apart()
    report = tune(net, train=inputs, val=inputs, loss=None, teacher=teacher, epochs=4, lr=0.02)
    assert apart() < 0.8 * gap
    assert (report.loss, report.metric_name) == ("teacher", "-teacher")
    assert changed(teacher, before) == set()
    assert tune(net, teacher=teacher).loss == "cross_entropy + teacher"


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


# How it ends when it ends badly.


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
            "nothing was inserted into this model\n"
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


def flat(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, reduction="none")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"epochs": 0}, InputError, "epochs=0 cannot be\n  fix: pass 1, 2, 3, ..."),
        ({"loss": "hinge"}, RegistryError, "no loss 'hinge'\n  fix: choose one of: cross_entropy"),
        (
            {"loss": None},
            InputError,
            "there is nothing to make small: loss is None and there is no teacher\n"
            "  fix: pass loss='cross_entropy', a function loss(outputs, target), or teacher=",
        ),
        (
            {"trainable": ["*", "layer9.*"]},
            PolicyError,
            "trainable pattern 'layer9.*' fits nothing\n"
            "  fix: mend or remove it; there is: 0.bias, 0.weight, 2.bias, 2.weight",
        ),
        (
            {"trainable": []},
            PolicyError,
            "there is nothing to train: no parameter was named\n"
            "  fix: pass trainable='*', or patterns of layers and parameters",
        ),
        (
            {"metric": lambda *_: 0.0},
            InputError,
            "a metric needs validation data, and val is None\n"
            "  fix: pass val=, batches that are not trained on, or leave metric out",
        ),
        (
            {"train": []},
            InputError,
            "the data holds no batch\n"
            "  fix: pass at least one; a generator that was read to its end is empty: pass a list "
            "or a DataLoader",
        ),
        (
            {"train": iter(TRAIN), "epochs": 2},
            InputError,
            "train can be read only once, and it is read 2 times\n"
            "  fix: pass a list of batches or a DataLoader instead of a generator",
        ),
        (
            {"val": iter(VAL)},
            InputError,
            "val can be read only once, and it is read before the first epoch and after each\n"
            "  fix: pass a list of batches or a DataLoader instead of a generator",
        ),
        (
            {"train": [X]},
            InputError,
            "batch 0 has no target for the loss\n"
            "  fix: yield (inputs, target); to learn from a teacher alone, pass loss=None",
        ),
        (
            {"val": [X]},
            InputError,
            "a metric needs targets, and the batches of val hold none\n"
            "  fix: yield (inputs, target)",
        ),
        (
            {"loss": flat},
            InputError,
            "the loss gave a Tensor of shape (32,)\n"
            "  fix: return one number as a tensor: take the mean over the batch",
        ),
        (
            {"loss": lambda *_: 0.5},
            InputError,
            "the loss gave a float\n"
            "  fix: return one number as a tensor: take the mean over the batch",
        ),
        (
            {"loss": lambda outputs, _: outputs.detach().mean()},
            InputError,
            "no trained parameter has a part in the loss\n"
            "  at:  0.weight, 0.bias, 2.weight, 2.bias\n"
            "  fix: compute the loss from the outputs by torch functions, without detach() or "
            "no_grad(), and let trainable= name layers that the outputs depend on",
        ),
        (
            {"teacher": linear_net()},
            InputError,
            "the teacher is in training mode\n  fix: call teacher.eval() first",
        ),
        (
            {"teacher": linear_net().eval(), "teacher_weight": 0},
            InputError,
            "teacher_weight=0 teaches nothing\n  fix: pass a number above 0",
        ),
        (
            {"checkpoint": "/nowhere/best.safetensors"},
            InputError,
            "the checkpoint cannot be written here\n"
            "  at:  /nowhere/best.safetensors\n"
            "  fix: name a file in a folder that exists and that you may write to",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    changes: dict[str, Any], error: type[QdqError], text: str
) -> None:
    net = quantized()
    before, before_flags = values(net), flags(net)
    with pytest.raises(error) as caught:
        tune(net, **changes)
    assert str(caught.value) == text
    assert changed(net, before) == set()
    assert flags(net) == before_flags


def test_frozen_parameters_alone_are_nothing_to_train() -> None:
    net = quantized()
    net.requires_grad_(False)
    with pytest.raises(PolicyError) as caught:
        tune(net, trainable="2")
    assert str(caught.value) == (
        "there is nothing to train: requires_grad is False for all that trainable= fits\n"
        "  at:  2.weight, 2.bias\n"
        "  fix: call parameter.requires_grad_(True), or name other parameters"
    )


def test_the_model_cannot_teach_itself() -> None:
    net = quantized()
    with pytest.raises(InputError) as caught:
        tune(net, teacher=net)
    assert str(caught.value) == (
        "the teacher holds parameters that are trained: it would agree with itself\n"
        "  at:  Sequential\n"
        "  fix: pass teacher=copy.deepcopy(model), copied before qdq.insert"
    )
    tune(net, teacher=copy.deepcopy(net))


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
