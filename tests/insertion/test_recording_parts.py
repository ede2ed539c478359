"""What takes a tensor apart or gives its values as they are, recorded and traced."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.insertion.following import trace
from qdq.insertion.recording import record
from qdq.targets.opgraph import OpGraph


class Parting(nn.Module):
    """A linear layer whose result is taken apart by a forward that is given."""

    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.run, self.fc = run, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.run(self.fc(x))


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def second(graph: OpGraph | None) -> tuple[str, str]:
    """Name and kind of the op that reads what the layer makes."""
    assert graph is not None
    made = graph.ops[0].outputs[0]
    assert graph.ops[1].inputs == (made,)
    return graph.ops[1].name, graph.ops[1].kind


SPLITS: dict[str, Callable[[Tensor], Any]] = {
    "chunk": lambda x: x.chunk(2, 1),
    "torch.chunk": lambda x: torch.chunk(x, 2, dim=1),
    "split": lambda x: x.split(2, 1),
    "split into sizes": lambda x: torch.split(x, [1, 3], 1),
    "split_with_sizes": lambda x: x.split_with_sizes([3, 1], 1),
    "tensor_split": lambda x: x.tensor_split(2, 1),
    "unbind": lambda x: x.unbind(),
    "iteration": lambda x: tuple(x),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_makes_all_its_parts(name: str) -> None:
    graph = record(Parting(SPLITS[name]), X)
    assert second(graph) == ("split_0", "split")
    assert graph.outputs == graph.ops[1].outputs
    assert len(graph.outputs) == 2


SLICES: dict[str, Callable[[Tensor], Any]] = {
    "columns": lambda x: x[:, :2],
    "a row": lambda x: x[0],
    "steps": lambda x: x[..., ::2],
    "narrow": lambda x: x.narrow(1, 0, 2),
    "select": lambda x: x.select(1, 0),
}


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_is_one_however_it_is_written(name: str) -> None:
    model = Parting(SLICES[name])
    assert second(record(model, X)) == second(trace(model)) == ("slice_0", "slice")


RESIZES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "by default": (lambda x: F.interpolate(x, scale_factor=2), "resize_nearest"),
    "nearest": (lambda x: F.interpolate(x, 8, mode="nearest"), "resize_nearest"),
    "exact": (lambda x: F.interpolate(x, 8, None, "nearest-exact"), "resize_nearest"),
    "bilinear": (lambda x: F.interpolate(x, 8, None, "bilinear"), "resize"),
    "bicubic": (lambda x: F.interpolate(x, 8, mode="bicubic"), "resize"),
    "area": (lambda x: F.interpolate(x, 2, mode="area"), "resize"),
}


@pytest.mark.parametrize("name", RESIZES)
def test_a_resize_that_mixes_no_values_is_of_another_kind_and_counted_with_the_others(
    name: str,
) -> None:
    run, kind = RESIZES[name]
    model = Parting(run)
    assert second(record(model, IMAGE)) == second(trace(model)) == ("resize_0", kind)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_an_upsampling_module_makes_the_call_itself(mode: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=2, mode=mode))
    kind = "resize_nearest" if mode == "nearest" else "resize"
    assert second(record(model, IMAGE)) == ("1.resize_0", kind)
