"""Train LeNet-5 on scikit-learn's hand-written digits and write its weights.

Reads the 1,797 images that ship with scikit-learn (no download): 1,198 to train on, every third
one (599) to test on, once, at the end. Each 8x8 image is enlarged to LeNet-5's own 32x32. Takes
about 20 s on one core; the same CPU and versions give the same bytes. Writes one file (--out).
"""

import argparse
import hashlib
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from models.lenet import lenet_digits  # noqa: E402  (needs the repository root on the path)


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Return images (1797, 1, 32, 32) in 0..1, labels (1797,) and a mask (1797,) of the test."""
    data = load_digits()
    x = (data.images / 16).astype(np.float32).repeat(4, axis=1).repeat(4, axis=2)[:, None]
    return torch.from_numpy(x), torch.from_numpy(data.target), torch.arange(len(x)) % 3 == 0


def jitter(x: Tensor) -> Tensor:
    """Turn by +-10 degrees, scale by +-10 %, shift by +-4 pixels (one pixel of the 8x8 image)."""
    widest = torch.tensor([[math.radians(10)], [0.1], [0.25], [0.25]])  # 0.25: 4 of 16 pixels
    angle, scale, dx, dy = (torch.rand(4, len(x)) * 2 - 1) * widest
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    theta = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), False), align_corners=False)


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int = 64) -> None:
    """Fit the model in place: AdamW, one-cycle rate, a fixed number of epochs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * math.ceil(len(x) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in track(range(epochs), description="epochs"):
        for rows in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(model(jitter(x[rows])), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train, test once, write by replacement so that a broken run leaves the old file."""
    parser = argparse.ArgumentParser(description=__doc__)
    out = ROOT / "models/weights/lenet_digits.safetensors"
    parser.add_argument("--out", type=Path, default=out, help="file to write (%(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the data (%(default)s)")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in one order: the same bytes on every run
    torch.use_deterministic_algorithms(True)
    (x, y, test), model = digits(), lenet_digits()
    train(model, x[~test], y[~test], args.epochs)
    right = int((model.eval()(x[test]).argmax(1) == y[test]).sum())
    part = args.out.with_name(f"{args.out.name}.part")
    part.write_bytes(save(model.state_dict()))
    os.replace(part, args.out)
    print(f"test accuracy {100 * right / len(x[test]):.2f} % ({right} of {len(x[test])})")
    print(f"sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()}  {args.out}")


if __name__ == "__main__":
    main()
