"""What calibrating costs, as a ratio to the float forward of the same batches.

  ResNet-50   64 images in batches of 8      ResNet-20   512 images in batches of 64

Random weights and data; every site that a target may ask for is counted. Printed: the floor (hooks
alone, nobody counts), then the whole `qdq.calibrate` by max and by mse, its searches included:
median [lower quartile, upper quartile], and the ratio of the fastest runs. --memory prints instead
the peak of resident memory during a calibration above that during the float forward before it, for
growing numbers of images; no image is kept.

    python scripts/benchmarks/calibration.py --runs 5
    python scripts/benchmarks/calibration.py --only resnet20 --without-numba
    python scripts/benchmarks/calibration.py --memory
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from measuring import Times, arguments
from torch import Tensor, nn

import qdq
from models.resnet import resnet20, resnet50

SIZES = {"resnet50": (resnet50, 224, 8, 8), "resnet20": (resnet20, 32, 64, 8)}
IMAGES = (16, 64, 256, 1024)  # of a measurement of memory


def prepared(build: Callable[[], nn.Module], x: Tensor) -> tuple[nn.Module, nn.Module]:
    """The folded float model, and a copy of it with quantizers."""
    model = build().eval()
    qdq.fuse(model)
    quantized = deepcopy(model)
    qdq.insert(quantized, x[:1], target="onnxruntime")
    return model, quantized


@torch.no_grad()
def forward(model: nn.Module, batches: list[Tensor]) -> None:
    """The pass that calibrating is compared with."""
    for batch in batches:
        model(batch)


def watched_by_nobody(model: nn.Module, batches: list[Tensor]) -> None:
    """The pass of a calibration that counts nothing."""
    for quantizer in qdq.quantizers(model).values():
        quantizer.observer = lambda _site, _x: None
    forward(model, batches)
    for quantizer in qdq.quantizers(model).values():
        quantizer.observer = None


def times(name: str, runs: int) -> None:
    """Measure and print the ratios of one network."""
    build, size, batch, number = SIZES[name]
    batches = [torch.randn(batch, 3, size, size) for _ in range(number)]
    model, quantized = prepared(build, batches[0])

    def calibrated(method: str) -> Callable[[], object]:
        return lambda: qdq.calibrate(quantized, batches, method=method, progress=False)

    jobs = {
        "float": lambda: forward(model, batches),
        "floor": lambda: watched_by_nobody(quantized, batches),
        "max": calibrated("max"),
        "mse": calibrated("mse"),
    }
    taken = Times(jobs, runs)
    print(f"{name}, {batch * number} images in batches of {batch}: float {taken.spent('float')}")
    for job in ("floor", "max", "mse"):
        fastest = taken.ms[job].min() / taken.ms["float"].min()
        print(f"  {job:6} {taken.ratio(job, 'float')}, fastest {fastest:.3f}x")


def memory(name: str, images: int) -> None:
    """Print the peaks of one network, in a process that does nothing else."""
    build, size, batch, _ = SIZES[name]
    model, quantized = prepared(build, torch.randn(1, 3, size, size))

    def batches() -> Iterator[Tensor]:
        for _ in range(images // batch):
            yield torch.randn(batch, 3, size, size)

    plain = peak(lambda: forward(model, batches()))  # type: ignore[arg-type]
    whole = peak(lambda: qdq.calibrate(quantized, batches(), progress=False))
    print(f"{name}, {images:5} images: float {plain:.0f} MB, calibrating {whole - plain:+.0f} MB")


def peak(job: Callable[[], object]) -> float:
    """Most resident memory while the job ran, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    job()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, runs=5)
    parser.add_argument("--only", choices=SIZES, help="one network; else both")
    parser.add_argument("--without-numba", action="store_true", help="as if not installed")
    parser.add_argument("--memory", action="store_true", help="memory instead of time; Linux only")
    parser.add_argument("--images", type=int, help="with --memory: one number, in this process")
    asked = parser.parse_args()
    if asked.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    if asked.images:
        memory(asked.only or "resnet50", asked.images)
        return
    print(f"torch {torch.__version__}, {asked.threads} thread(s), {asked.runs} runs, CPU time")
    for name in [asked.only] if asked.only else SIZES:
        if asked.memory:
            for images in IMAGES:
                flags = ["--without-numba"] if asked.without_numba else []
                own = ["--only", name, "--images", str(images), *flags]
                subprocess.run([sys.executable, __file__, *own], check=True)
        else:
            times(name, asked.runs)


if __name__ == "__main__":
    main()
