"""What quantizers cost beside the numbers they compute, on ResNet-50, as ratios to the float model.

  build     building and loading a quantized model over building and loading the float one: by
            `insert` (folding included), traced or with a recorded forward, and by `initialize`
  forward   224 x 224, no_grad, BatchNorm folded on both sides: everything switched off, and inputs
            and weights of every TensorRT site fake-quantized

The sides run in turn, so that a busy neighbour slows both; each ratio is that of one such round.
Printed: median [lower quartile, upper quartile], and what is asked of the median.

    python scripts/benchmarks/overheads.py
    python scripts/benchmarks/overheads.py --only build --runs 30
"""

import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from measuring import Times, arguments
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import qdq
from models.resnet import resnet50

Jobs = Mapping[str, Callable[[], object]]
# Job -> the largest ratio to float that is good enough.
BUILD = {"insert, traced": 2.0, "insert, recorded": 2.0, "initialize": 2.0}
FORWARD = {"switched off": 1.03, "tensorrt sites": 1.6}


def loaded(weights: Path) -> nn.Module:
    """A float model, ready to use."""
    model = resnet50()
    model.load_state_dict(load_file(weights))
    return model.eval()


def inserted(weights: Path, example: Tensor | None) -> nn.Module:
    """The same with quantizers for TensorRT."""
    model = loaded(weights)
    qdq.insert(model, example)
    return model


def initially_quantized(weights: Path) -> nn.Module:
    """The same, of layers that were built quantized."""
    with qdq.initialized():
        return loaded(weights)


def building(folder: str) -> Jobs:
    """Every way to build; the forward that is recorded has one image of 64 x 64."""
    weights = Path(folder) / "weights.safetensors"
    save_file(resnet50().state_dict(), weights)
    return {
        "float": partial(loaded, weights),
        "insert, traced": partial(inserted, weights, None),
        "insert, recorded": partial(inserted, weights, torch.randn(1, 3, 64, 64)),
        "initialize": partial(initially_quantized, weights),
    }


def forwards(x: Tensor) -> Jobs:
    """The folded float model, and two copies of it with quantizers."""
    model = resnet50().eval()
    qdq.fuse(model)
    on = deepcopy(model)
    qdq.insert(on, x)
    qdq.calibrate(on, [x], method="max", progress=False)
    off = deepcopy(on)
    qdq.disable_quantization(off)
    models = {"float": model, "switched off": off, "tensorrt sites": on}
    return {name: torch.no_grad()(partial(each, x)) for name, each in models.items()}


def show(name: str, jobs: Jobs, limits: Mapping[str, float], runs: int) -> None:
    """Measure and print one table."""
    times = Times(jobs, runs)
    print(f"{name}: float {times.spent('float')}", flush=True)
    for job, limit in limits.items():
        ratio = times.ratio(job, "float")
        print(f"  {job:16} {ratio}, asked <= {limit:.2f}x, {times.spent(job)}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, runs=15)
    parser.add_argument("--only", choices=("build", "forward"), help="one of the two; else both")
    parser.add_argument("--batch", type=int, default=8, help="images in a forward (%(default)s)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {asked.threads} thread(s), {asked.runs} runs, CPU time")
    if asked.only != "forward":
        with tempfile.TemporaryDirectory() as folder:
            show("build", building(folder), BUILD, asked.runs)
    if asked.only != "build":
        x = torch.randn(asked.batch, 3, 224, 224)
        show(f"forward, batch {asked.batch}", forwards(x), FORWARD, asked.runs)


if __name__ == "__main__":
    main()
