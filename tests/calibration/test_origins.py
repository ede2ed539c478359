"""What makes two models, or two batches, the same: sites, and every bit of the weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from counting import batches, net
from torch import nn

import qdq
from qdq.calibration.origins import difference, digest_of, origin_of
from qdq.data import rows_of
from qdq.errors import StepError


def test_sites_are_those_that_need_data_and_weights_all_but_ranges() -> None:
    origin = origin_of(net())
    assert {"0.input", "2.input"} <= set(origin.sites)
    assert not any(site.endswith("weight") for site in origin.sites)
    assert set(origin.weights) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert (origin.batches, origin.samples, origin.share) == (0, 0, (0, 1))


def change_one_weight(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6  # type: ignore[index, operator, union-attr]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: qdq.calibrate(model, batches(1), progress=False), ""),
        (lambda model: qdq.retarget(model, "onnxruntime"), ""),
        (lambda model: qdq.disable_quantization(model, "2"), ""),
        (lambda model: model.requires_grad_(False), ""),
        (change_one_weight, "they differ in the weights 0.weight"),
        (
            lambda model: model.half(),
            "they differ in the weights 0.bias, 0.weight, 2.bias, 2.weight",
        ),
        (
            lambda model: model.register_buffer("extra", torch.zeros(())),
            "only the second has the weights extra",
        ),
    ],
)
def test_a_model_stays_the_same_through_what_leaves_its_float_values(
    change: Callable[[nn.Module], object], expected: str
) -> None:
    model = net()
    other = copy.deepcopy(model)
    change(other)
    assert difference(origin_of(model), origin_of(other)) == expected


def test_strides_do_not_count_and_shapes_do() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert digest_of(x) == digest_of(x.t().contiguous().t()) == digest_of((x,))
    assert len({digest_of(x), digest_of(x.reshape(3, 2)), digest_of(x.int()), digest_of(-x)}) == 4
    assert digest_of(torch.tensor(1.0)) != digest_of(torch.tensor(2.0))


def test_every_tensor_of_a_batch_counts() -> None:
    first = {"x": (torch.zeros(2), [torch.ones(1)]), "name": "a"}
    second = {"x": (torch.zeros(2), [torch.zeros(1)]), "name": "a"}
    assert digest_of(first) != digest_of(second)
    assert digest_of(["no", "tensors"]) == digest_of(None)


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (torch.zeros(3, 2), 3),
        ((torch.zeros(3, 2), torch.zeros(9)), 3),
        ({"x": torch.zeros(4)}, 4),
        ((torch.tensor(1.0), torch.zeros(5)), 5),
        ("text", 0),
    ],
)
def test_rows_are_those_of_the_first_tensor_that_has_any(batch: object, rows: int) -> None:
    assert rows_of(batch) == rows


def test_a_float_model_has_no_origin() -> None:
    with pytest.raises(StepError, match="this model has no quantizers"):
        origin_of(nn.Linear(2, 2))
