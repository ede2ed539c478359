"""A teacher, alone or beside a loss."""

import copy

import pytest
from training_nets import TRAIN, X, changed, quantized, trained, tune, values

from qdq.errors import InputError

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def test_a_teacher_alone_needs_no_targets_and_is_left_alone() -> None:
    teacher, net = trained(), quantized()
    before = values(teacher)
    inputs = [x for x, _ in TRAIN]

    def apart() -> float:
        return float((net(X).softmax(1) - teacher(X).softmax(1)).detach().abs().mean())

    gap = apart()
    report = tune(net, train=inputs, val=inputs, loss=None, teacher=teacher, epochs=4, lr=0.02)
    assert apart() < 0.8 * gap
    assert (report.loss, report.metric_name) == ("teacher", "-teacher")
    assert changed(teacher, before) == set()
    assert tune(net, teacher=teacher).loss == "cross_entropy + teacher"


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
