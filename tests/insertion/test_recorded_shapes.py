"""Shapes of what a recorded forward made, and that they come back with a saved model."""

from pathlib import Path

import torch
from torch import nn

import qdq
from qdq.insertion.following import trace
from qdq.insertion.placing import insertion_of
from qdq.insertion.recording import record


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))


def test_every_tensor_that_an_op_reads_or_makes_has_its_shape() -> None:
    graph = record(net().eval(), torch.zeros(2, 3, 8, 8))
    assert [graph.shapes[each] for each in graph.inputs] == [(2, 3, 8, 8)]
    made = [graph.shapes[op.outputs[0]] for op in graph.ops]
    assert made == [(2, 8, 3, 3), (2, 8, 3, 3), (2, 72), (2, 5)]


def test_each_part_of_a_split_has_its_own() -> None:
    class Parts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = x.split([1, 3], 1)
            return left * right

    graph = record(Parts(), torch.zeros(2, 4))
    assert [graph.shapes[each] for each in graph.ops[0].outputs] == [(2, 1), (2, 3)]


def test_a_forward_traced_without_data_has_none() -> None:
    graph = trace(net())
    assert graph is not None
    assert graph.shapes == {}


def test_they_come_back_with_a_saved_model(tmp_path: Path) -> None:
    model = net().eval()
    qdq.insert(model, torch.zeros(1, 3, 8, 8))
    qdq.save(model, tmp_path / "m.safetensors")
    fresh = net().eval()
    qdq.load(fresh, tmp_path / "m.safetensors")
    saved, loaded = insertion_of(model).graph, insertion_of(fresh).graph
    assert saved is not None
    assert saved == loaded
    assert saved.shapes
