"""Predict every code of onnxruntime's optimized INT8 graph on real images, and count the misses.

A net with trained weights is quantized, exported, and validated with `exact=True`: onnxruntime with
all optimizations on the one side, its integer arithmetic in numpy on the other.

    QDQ_DATA=... python scripts/exactness.py --images 1000
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from real_nets import NETS, Batches
from torch import Tensor

import qdq


@dataclass(frozen=True)
class Labelled:
    """Images in batches, with their labels (N,)."""

    images: Batches
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        counts = [len(each) for each in self.images]
        return iter(zip(self.images, self.labels.split(counts), strict=True))


def main() -> None:
    """One net: nodes, codes and output values that are not as predicted, and equal top-1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--net", choices=NETS, default="resnet20", help="(%(default)s)")
    parser.add_argument("--images", type=int, help="of the test images (all)")
    parser.add_argument("--target", default="onnxruntime", help="or tensorrt (%(default)s)")
    args = parser.parse_args()
    net = NETS[args.net]
    model, (calibration, _) = net.model(), net.first("train", 256)
    images, labels = net.first("test", args.images or net.images)
    qdq.insert(model, calibration[0], target=args.target)
    qdq.calibrate(model, calibration, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{args.net}.onnx"
        qdq.export_onnx(model, calibration[0], path)
        start = time.perf_counter()
        report = qdq.validate(path, Labelled(images, Tensor(labels)), exact=True)
    print(report)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
