"""Tiny nets, which integers may slow down: float, all in integers, and the fastest mixture.

CPU provider of onnxruntime, one thread, batch 1; weights are random, time does not depend on them.
Which layers stay float is predicted from a table of costs: that of the package, or one of this
machine, which --fit measures first. Printed: predicted and measured ratios to float, and the layers
that stay float.

    python scripts/benchmarks/tiny_nets.py
    python scripts/benchmarks/tiny_nets.py --fit --runs 200 lenet ds_cnn
"""

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from measuring import arguments
from torch import nn

import qdq
from models.lenet import LeNet
from qdq.graph.benching.fitting import fit_costs


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int], **more: object) -> nn.Sequential:
    """A convolution with a ReLU, its BatchNorm folded."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, **more), nn.ReLU())


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a 1x1 convolution."""
    deep = conv(inputs, inputs, 3, stride=stride, padding=1, groups=inputs)
    return nn.Sequential(deep, conv(inputs, outputs, 1))


def mobilenet_v1(width: float) -> nn.Sequential:
    """Howard et al. 2017, arXiv:1704.04861, table 1, with two classes."""
    plan = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    sizes = [int(width * each) for each in plan]
    layers = [conv(3, sizes[0], 3, stride=2, padding=1)]
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers.append(separable(inputs, outputs, 2 if index in (1, 3, 5, 11) else 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], 2))


def ds_cnn() -> nn.Sequential:
    """Zhang et al. 2017, arXiv:1711.07128, the small one: 49 frames of 10 coefficients."""
    layers = [
        conv(1, 64, (10, 4), stride=2, padding=(4, 1)),
        *[separable(64, 64) for _ in range(4)],
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def autoencoder() -> nn.Sequential:
    """Banbury et al. 2021, arXiv:2106.07597, anomaly detection: 640-128-8-128-640."""
    sizes = [640, *[128] * 4, 8, *[128] * 4, 640]
    layers = [each for pair in pairwise(sizes) for each in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobilenet_v1_025": (partial(mobilenet_v1, 0.25), (3, 96, 96)),
    "mobilenet_v1_05": (partial(mobilenet_v1, 0.5), (3, 96, 96)),
    "ds_cnn": (ds_cnn, (1, 49, 10)),
    "autoencoder": (autoencoder, (640,)),
    "lenet": (partial(LeNet, input_size=28), (1, 28, 28)),
}


def write(build: Callable[[], nn.Module], x: torch.Tensor, folder: Path, costs: str) -> list[str]:
    """float.onnx, int8.onnx and fastest.onnx; names of the layers that stay float in the last."""
    torch.manual_seed(0)
    nets = [build().eval() for _ in range(3)]
    torch.onnx.export(nets[0], (x[:1],), folder / "float.onnx", dynamo=False)
    for net, name in zip(nets[1:], ("int8", "fastest"), strict=True):
        target = qdq.targets.get("onnxruntime", costs=costs, fastest=name == "fastest")
        report = qdq.insert(net, x, target=target)
        if report.select("quantize"):
            qdq.calibrate(net, [x], method="max", progress=False)
        qdq.export_onnx(net, x[:1], folder / f"{name}.onnx")
    return [row.name[:-7] for row in report.select("off") if row.name.endswith(".weight")]


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, runs=100)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=", ".join(NETS))
    parser.add_argument("--costs", default="x86_vnni", help="a table (%(default)s)")
    parser.add_argument("--fit", action="store_true", help="measure a table first")
    asked = parser.parse_args()
    if set(asked.nets) - set(NETS):
        parser.error(f"choose from {', '.join(NETS)}")
    warnings.simplefilter("ignore")  # of the exporter that writes a true opset 13
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.fit:
            asked.costs = str(folder / "costs.json")
            table = fit_costs().table
            table.to_json(asked.costs)
            print(table)
        for name in asked.nets:
            build, shape = NETS[name]
            left = write(build, torch.randn(8, *shape), folder, asked.costs)
            files = {key: folder / f"{key}.onnx" for key in ("float", "int8", "fastest")}
            report = qdq.graph.bench(files, threads=[asked.threads], batches=[1], rounds=asked.runs)
            print(f"{name}: float is {', '.join(left) or 'nothing'}\n{report}", flush=True)


if __name__ == "__main__":
    main()
