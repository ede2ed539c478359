"""How good each way to choose ranges is: top-1 and SQNR of the logits, as onnxruntime runs it.

Takes trained nets and images from $QDQ_DATA. One pass over 512 train images counts for all methods
(SqueezeNet: 250, of those it is tested on), without labels; tier "best" also repairs weights.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from real_nets import NETS, Batches, in_onnxruntime, in_torch
from torch import nn

import qdq
from qdq.numerics.distance import sqnr
from qdq.numerics.thresholds import METHODS

CALIBRATED, TARGETS = 512, ("onnxruntime", "tensorrt")
HEAD = "| model | images | method | target | top-1 | SQNR, dB |\n|---|---|---|---|---|---|"


def prepared(model: nn.Module, methods: list[str], train: Batches) -> Iterator[tuple[str, ...]]:
    """Name and targets of each way to quantize, while the model stands ready to be written so."""
    qdq.calibrate(model, train, progress=False)
    for method in methods:
        qdq.choose_ranges(model, method)
        yield method, *TARGETS
    qdq.retarget(model, "tensorrt")
    qdq.choose_ranges(model, "mse", shared=False)
    yield "mse, not shared", "tensorrt"
    qdq.retarget(model, "onnxruntime")
    qdq.calibrate(model, train, tier="best", progress=False)
    yield "mse, tier best", *TARGETS


def rows(name: str, count: int, methods: list[str], path: Path) -> Iterator[dict[str, Any]]:
    """One for the float net, then one per method and target; each writes its file to `path`."""
    model, (images, labels) = NETS[name].model(), NETS[name].first("test", count)
    reference = in_torch(model, images)
    about, right = {"model": name, "images": len(labels)}, reference.argmax(1) == labels
    yield about | {"method": "float", "target": "", "top1": right.mean(), "sqnr_db": None}
    qdq.fuse(model)
    qdq.insert(model, images[0], target="onnxruntime")
    for method, *targets in prepared(model, methods, NETS[name].first("train", CALIBRATED)[0]):
        for target in targets:
            qdq.export_onnx(model, images[0], path, target=target)
            logits = in_onnxruntime(path, images)
            top1, far = (logits.argmax(1) == labels).mean(), sqnr(reference, logits)
            yield about | {"method": method, "target": target, "top1": top1, "sqnr_db": far}


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    *names, top1, far = row.values()
    return f"| {' | '.join(map(str, names))} | {top1:.2%} | {'' if far is None else f'{far:.2f}'} |"


def main() -> None:
    """Measure, and print row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=NETS, help="only this one (all)")
    parser.add_argument("--images", type=int, help="how many to test on (all)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS], help="(all)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # torch deprecates the exporter that writes opset 13
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.model] if args.model else NETS:
            count, path = args.images or NETS[name].images, Path(folder) / "model.onnx"
            for row in rows(name, count, args.methods, path):
                print(line(row), flush=True)


if __name__ == "__main__":
    main()
