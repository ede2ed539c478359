"""The seven steps of pytorch_quantization in qdq's names and in the old ones, side by side.

Takes the LeNet of models/weights and scikit-learn's digits (no download). With ranges by max both
agree up to ties of rounding; the other methods count in other bins. The old names are those of
scripts/pq_old_names.py, over qdq.compat. Half a minute; writes qdq.onnx and old.onnx into --out.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import qdq
import qdq.compat
from qdq.data.sources import digits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
qdq.compat.install()
import pq_old_names as old_names  # noqa: E402  (needs the name pytorch_quantization)

from models.lenet import LeNet, lenet_digits  # noqa: E402  (needs the repository root on the path)

TRAIN, TEST, IMAGE = digits("train", 64), digits("test", 64), torch.zeros(1, 1, 32, 32)


def logits(model: nn.Module) -> Tensor:
    """(599, 10) of the test images."""
    with torch.no_grad():
        return torch.cat([model.eval()(x) for x, _ in TEST])


def line(what: str, reference: Tensor, ours: nn.Module, old: nn.Module) -> None:
    """Print accuracy, and the float logits over the difference from them, of both models."""
    labels = torch.cat([y for _, y in TEST])
    for name, y in (("qdq", logits(ours)), ("old", logits(old))):
        ratio = reference.square().sum() / (y - reference).square().sum()
        right = (y.argmax(1) == labels).float().mean()
        what += f"   {name} {right:.2%} {10 * ratio.log10():5.2f} dB"
    print(what)


def main() -> None:
    """Walk through the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pq_workflow"), help="(%(default)s)")
    (out := parser.parse_args().out).mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # torch deprecates the exporter that writes opset 13
    logging.getLogger("pytorch_quantization").setLevel(logging.ERROR)
    ours = lenet_digits().eval()
    ours.load_state_dict(load_file(ROOT / "models/weights/lenet_digits.safetensors"))
    qdq.fuse(ours)
    weights, reference = ours.state_dict(), logits(ours)
    qdq.insert(ours, IMAGE, ignore=nn.AvgPool2d)
    for method in ("percentile", "mse", "entropy", "max"):
        qdq.calibrate(ours, TRAIN, method=method)
        old = old_names.define(LeNet, weights, "max" if method == "max" else "histogram")
        old_names.calibrate(old, TRAIN, method)
        line(f"{method:11}", reference, ours, old)
    for row in qdq.sensitivity(ours, TEST, progress=False).rows:
        old_names.quantize_only(old, row.layer)
        with qdq.disable_quantization(ours), qdq.enable_quantization(ours, row.layer):
            line(f"only {row.layer:6}", reference, ours, old)
    old_names.quantize_only(old, "")
    qdq.export_onnx(ours, IMAGE, out / "qdq.onnx")
    old_names.export(old, IMAGE, out / "old.onnx")
    for path, model in ((out / "qdq.onnx", ours), (out / "old.onnx", old)):
        print(qdq.validate(path, TEST, reference={"fake_quant": model}, progress=False))
    qdq.finetune(ours, TRAIN, loss="cross_entropy", epochs=1, lr=1e-3, progress=False)
    old_names.finetune(old, TRAIN, len(TRAIN), lr=1e-3)
    line("fine-tuned ", reference, ours, old)


if __name__ == "__main__":
    main()
