"""What simulating INT8 costs in torch, as a ratio to the same network in float.

  forward   ResNet-50, 224 x 224, no_grad: inputs and weights fake-quantized over float
  step      ResNet-20, one step of training (forward, backward, SGD) over the float step

Random weights and data: time does not depend on them. BatchNorm is folded on both sides, ranges
are set by max on the batch that is measured. The sides run in turn, so that a busy neighbour
slows both; each ratio is that of one such pair. Printed: median [lower quartile, upper quartile],
and the ratio of the fastest runs, which a neighbour spoils least.

    python scripts/benchmarks/fake_quant.py --runs 15
    python scripts/benchmarks/fake_quant.py --only step --batch 32 --without-numba
"""

import sys
from collections.abc import Callable
from copy import deepcopy

import torch
from measuring import Times, arguments
from torch import Tensor, nn
from torch.nn import functional as F

import qdq
from models.resnet import resnet20, resnet50

TARGETS = ("tensorrt", "onnxruntime")


def variants(model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """The folded float model, and a quantized copy of it for each target."""
    qdq.fuse(model.eval())
    made = {"float": model}
    for target in TARGETS:
        made[target] = deepcopy(model)
        qdq.insert(made[target], x, target=target)
        qdq.calibrate(made[target], [x], method="max", progress=False)
    return made


def inference(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A forward without gradients."""
    return torch.no_grad()(lambda: model(x))


def training(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A step of SGD at a learning rate too small to change what is measured."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-6, momentum=0.9)
    labels = torch.arange(len(x)) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, runs=15)
    parser.add_argument("--only", choices=("forward", "step"), help="one of the two; else both")
    parser.add_argument("--batch", type=int, help="images in a batch; else 8 forward, 64 step")
    parser.add_argument("--without-numba", action="store_true", help="as if not installed")
    asked = parser.parse_args()
    if asked.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {asked.threads} thread(s), {asked.runs} runs, CPU time")
    for name, build, size, batch, job in (
        ("forward", resnet50, 224, 8, inference),
        ("step", resnet20, 32, 64, training),
    ):
        if asked.only in (None, name):
            x = torch.randn(asked.batch or batch, 3, size, size)
            jobs = {key: job(model, x) for key, model in variants(build(), x).items()}
            times = Times(jobs, asked.runs)
            print(f"{name}, {build.__name__}, batch {len(x)}: float {times.spent('float')}")
            for target in TARGETS:
                fastest = times.ms[target].min() / times.ms["float"].min()
                ratio, spent = times.ratio(target, "float"), times.spent(target)
                print(f"  {target:12} {ratio}, {spent}, fastest {fastest:.3f}x")


if __name__ == "__main__":
    main()
