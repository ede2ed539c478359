"""Padded channels, against what the speed pass writes into a file."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import qdq
from qdq.insertion.placing import insertion_of
from qdq.targets.costs.layers import Layer, rewritten_stem
from qdq.targets.costs.widths import padded_widths


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups), nn.ReLU())


class Residual(nn.Module):
    """Two branches of 12 channels that are added, behind a conv and before one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.last = conv(16, 12), conv(12, 12), conv(12, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x + self.left(x))


class Aside(nn.Module):
    """A float op reads the same 12 channels as a conv."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(16, 12), conv(12, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x) + torch.sigmoid(x).mean(1, keepdim=True)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(conv(16, 18), conv(18, 30), conv(30, 16)),
        nn.Sequential(conv(16, 8), conv(8, 16)),
        nn.Sequential(conv(16, 7), conv(7, 16)),
        nn.Sequential(conv(16, 12), conv(12, 12, 12), conv(12, 16)),
        nn.Sequential(conv(16, 24), nn.MaxPool2d(2), conv(24, 24, 24), conv(24, 18)),
        nn.Sequential(conv(16, 18), nn.Sigmoid(), conv(18, 16)),
        nn.Sequential(conv(16, 18), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 10)),
        Residual(),
        Aside(),
    ],
    ids=lambda net: type(net).__name__,
)
def test_the_prediction_pads_what_the_export_pads(net: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8, 8)
    report = qdq.insert(net.eval(), x, target="onnxruntime")
    qdq.calibrate(net, [x], method="max", progress=False)
    qdq.export_onnx(net, x, tmp_path / "m.onnx")
    graph = insertion_of(net).graph
    assert graph is not None
    integer = {row.name.rpartition(".")[0] for row in report.select("quantize")}
    widths = padded_widths(graph, integer)
    convs = [op for op in graph.ops if op.kind == "conv"]
    expected = [widths.get(op.outputs[0], op.weight[0]) for op in convs]
    model = onnx.load(tmp_path / "m.onnx")
    weights = {each.name: each.dims[0] for each in model.graph.initializer if each.dims}
    assert [weights[f"{op.name}.weight.codes"] for op in convs] == expected


@pytest.mark.parametrize(
    ("first", "pixels"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), 8),
        (nn.Conv2d(3, 18, 3, padding=1), 8),
        (nn.Conv2d(1, 16, 3, padding=1), 8),
        (nn.Conv2d(3, 16, 7, stride=2, padding=3), 16),
        (nn.Conv2d(1, 32, 5, stride=2, padding=2), 16),
        (nn.Conv2d(3, 32, 5, padding=2), 16),
    ],
    ids=lambda each: (
        f"{each.in_channels}-{each.out_channels}" if isinstance(each, nn.Module) else ""
    ),
)
def test_the_prediction_rewrites_first_layers_as_the_export_does(
    first: nn.Conv2d, pixels: int, tmp_path: Path
) -> None:
    net, x = (
        nn.Sequential(first, nn.ReLU()).eval(),
        torch.randn(2, first.in_channels, pixels, pixels),
    )
    qdq.insert(net, x, target="onnxruntime")
    qdq.calibrate(net, [x], method="max", progress=False)
    qdq.export_onnx(net, x, tmp_path / "m.onnx")
    places = net(x).shape[2] * net(x).shape[3]
    side = first.kernel_size[0]
    layer = Layer(first.out_channels, first.in_channels, side**2, 1, places, x[0].numel())
    rewritten = rewritten_stem(layer)
    expected = layer if rewritten is None else rewritten[0]
    model = onnx.load(tmp_path / "m.onnx")
    dims = next(each.dims for each in model.graph.initializer if each.name == "0.weight.codes")
    assert (dims[1], dims[2] * dims[3]) == (expected.inputs, expected.kernel)
