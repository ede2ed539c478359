"""What fine-tuning refuses, before or at the first step, and in which words."""

from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional as F
from training_nets import TRAIN, VAL, X, changed, flags, linear_net, quantized, tune, values

from qdq.errors import InputError, PolicyError, QdqError, RegistryError

pytest.importorskip("lightning", reason="the extra `train` is not installed")


def flat(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target, reduction="none")


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"epochs": 0}, InputError, "epochs=0 cannot be\n  fix: pass 1, 2, 3, ..."),
        ({"loss": "hinge"}, RegistryError, "no loss 'hinge'\n  fix: known: cross_entropy"),
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
