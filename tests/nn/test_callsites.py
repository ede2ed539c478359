"""Call sites: whichever way an addition is written, and whose number it is."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from callsite_nets import (
    FLOAT_SUM,
    IMAGES,
    QUANTIZED_SUM,
    A,
    B,
    Callsite,
    ResidualBlock,
    ResidualNet,
    addition,
    on_grid,
    prepared,
    ranged,
    with_sites,
)
from torch import Tensor, nn

from qdq.insertion.following import trace
from qdq.insertion.recording import record
from qdq.nn import callsites
from qdq.nn.holders import add_call_site


class Grown(nn.Module):
    """Additions in the root, in containers, in blocks, and one of a number."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ResidualNet(), ResidualBlock())
        self.other = ResidualBlock()

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x + 1) + self.other(x) + x


@pytest.fixture(autouse=True)
def clean_torch() -> Iterator[None]:
    assert torch._C._len_torch_function_stack() == 0
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert callsites._running.mode is None


def sum_in_place(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


WAYS = [
    lambda a, b: a + b,
    torch.add,
    Tensor.add,
    Tensor.__add__,
    Tensor.__iadd__,
    sum_in_place,
    lambda a, b: a.clone().add_(b),
    lambda a, b: torch.add(a, other=b),
    lambda a, b: torch.add(input=a, other=b),
]


@pytest.mark.parametrize("way", WAYS)
def test_an_addition_is_quantized_however_it_is_written(way: Any) -> None:
    model = with_sites(lambda _, a, b: way(a, b), "add_0")
    np.testing.assert_array_equal(model(A.clone(), B), QUANTIZED_SUM)


@pytest.mark.parametrize("way", ["add_", "+=", "iadd"])
def test_an_addition_in_place_is_seen_through_an_alias(way: str) -> None:
    def run(_: Any, a: Tensor, b: Tensor) -> Tensor:
        alias = a
        if way == "add_":
            a.add_(b)
        elif way == "iadd":
            a.__iadd__(b)
        else:
            a += b
        assert a is alias
        return alias

    given = A.clone()
    result = with_sites(run, "add_0")(given, B)
    assert result is given
    np.testing.assert_array_equal(given, QUANTIZED_SUM)


def test_gradients_of_an_addition_in_place_reach_both_terms() -> None:
    model = with_sites(lambda _, a, b: (a * 1).add_(b * 1), "add_0")
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    model(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.equal(a.grad, (A.abs() <= 2.0).float())
    assert torch.equal(b.grad, (B.abs() <= 1.0).float())


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (lambda a, b: torch.add(a, b, alpha=2), A + 2 * B),
        (lambda a, b: a + 1, A + 1),
        (lambda a, b: 1.5 + a, A + 1.5),
        (lambda a, b: torch.add(a, b, out=torch.empty(2, 4)), A + B),
    ],
)
def test_another_kind_of_addition_is_left_alone_but_counted(other: Any, expected: Tensor) -> None:
    model = with_sites(lambda _, a, b: (other(a, b), a + b), "add_0", "add_1")
    left, quantized = model(A, B)
    assert torch.equal(left, expected)
    np.testing.assert_array_equal(quantized, QUANTIZED_SUM)


def test_an_addition_without_a_site_is_float() -> None:
    model = with_sites(lambda _, a, b: (a + b, a + b), "add_1")
    left, quantized = model(A, B)
    np.testing.assert_array_equal(left, FLOAT_SUM)
    np.testing.assert_array_equal(quantized, QUANTIZED_SUM)


def test_each_module_counts_its_own_additions_while_others_run_inside() -> None:
    inner = Callsite(lambda _, a, b: (a + b) + b)
    ranged(add_call_site(inner, addition("add_1")))

    def run(net: Any, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return a + b, net.inner(a, b), a + b

    outer = with_sites(run, "add_1", inner=inner)
    before, inside, after = outer(A, B)
    np.testing.assert_array_equal(before, FLOAT_SUM)
    np.testing.assert_array_equal(inside, on_grid(FLOAT_SUM, 2.0) + on_grid(B, 1.0))
    np.testing.assert_array_equal(after, QUANTIZED_SUM)


def test_a_function_belongs_to_the_module_whose_forward_calls_it() -> None:
    def helper(a: Tensor, b: Tensor) -> Tensor:
        return a + b

    inner = Callsite(lambda _, a, b: helper(a, b))
    ranged(add_call_site(inner, addition("add_0")))
    outer = with_sites(lambda net, a, b: (helper(a, b), net.inner(a, b)), inner=inner)
    left, quantized = outer(A, B)
    np.testing.assert_array_equal(left, FLOAT_SUM)
    np.testing.assert_array_equal(quantized, QUANTIZED_SUM)


def test_a_site_follows_the_way_that_control_flow_takes() -> None:
    def run(_: Any, a: Tensor, b: Tensor, go: bool) -> Tensor:
        return a + b if go else a - b

    model = with_sites(run, "add_0")
    np.testing.assert_array_equal(model(A, B, True), QUANTIZED_SUM)
    np.testing.assert_array_equal(model(A, B, False), (A - B).numpy())
    np.testing.assert_array_equal(model(A, B, True), QUANTIZED_SUM)


def test_a_module_that_calls_itself_has_one_count_per_call() -> None:
    def run(net: Any, a: Tensor, b: Tensor, depth: int) -> Tensor:
        if depth:
            net(a, b, depth - 1)
        return a + b

    np.testing.assert_array_equal(with_sites(run, "add_0")(A, B, 2), QUANTIZED_SUM)


def test_a_batch_norm_that_counts_its_batches_shifts_no_call_site() -> None:
    def run(net: Any, a: Tensor, b: Tensor) -> Tensor:
        net.norm(a)
        return a + b

    model = with_sites(run, "add_0", norm=nn.BatchNorm1d(4))
    for training in (True, False):
        model.train(training)
        np.testing.assert_array_equal(model(A, B), QUANTIZED_SUM)


def test_a_call_site_is_in_the_mode_of_its_module() -> None:
    for training in (True, False):
        module = nn.Identity().train(training)
        site = add_call_site(module, addition("add_0"))
        assert site.training is training
        assert module._call_sites.training is training  # type: ignore[union-attr]


def test_a_block_called_by_itself_quantizes_as_inside_its_net() -> None:
    model = prepared()
    seen: list[Tensor] = []
    handle = model.first.register_forward_hook(lambda _m, _a, y: seen.append(y))  # type: ignore[union-attr, operator]
    model(IMAGES)
    handle.remove()
    assert torch.equal(model.first(IMAGES), seen[0])  # type: ignore[operator]


def test_additions_outside_any_forward_are_torchs_own() -> None:
    prepared()(IMAGES)
    assert torch.equal(A + B, torch.from_numpy(FLOAT_SUM))
    assert torch._C._len_torch_function_stack() == 0


def additions(graph: Any) -> list[str]:
    return [op.name for op in graph.ops if op.kind == "add"]


def test_a_recorded_and_a_traced_forward_give_call_sites_the_same_names() -> None:
    model = Grown().eval()
    names = additions(record(model, IMAGES))
    assert additions(trace(model)) == names
    assert names == [
        "add_0",
        "blocks.0.first.add_0",
        "blocks.0.second.add_0",
        "blocks.0.add_0",
        "blocks.1.add_0",
        "other.add_0",
        "add_1",
        "add_2",
    ]


def test_a_block_called_twice_has_one_call_site_in_both_kinds_of_graph() -> None:
    model = nn.Sequential(block := ResidualBlock(), nn.ReLU(), block).eval()
    assert additions(record(model, IMAGES)) == ["0.add_0", "0.add_0"]
    assert additions(trace(model)) == ["0.add_0", "0.add_0"]
