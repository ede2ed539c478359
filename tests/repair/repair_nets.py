"""Tiny nets with every kind of layer that can be repaired, calibrated, and their data."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdq.calibration.choosing import calibrate
from qdq.insertion.replacing import insert


class Net(nn.Module):
    """Convolutions plain, depthwise, without bias and transposed, a linear layer on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
        self.plain = nn.Conv2d(6, 8, 1, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.plain(self.depthwise(x)))
        return self.head(F.relu(self.up(x)).flatten(2).transpose(1, 2))


LAYERS = ("stem", "depthwise", "plain", "up", "head")


def batches(count: int = 3, size: int = 4) -> list[Tensor]:
    """Smooth images: neighbouring pixels go together, as a rounding that knows its inputs needs."""
    generator = torch.Generator().manual_seed(1)
    coarse = [torch.randn(size, 2, 4, 4, generator=generator) for _ in range(count)]
    return [F.interpolate(each, size=(8, 8), mode="bilinear") for each in coarse]


def float_net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def calibrated(target: str = "tensorrt") -> Net:
    model = float_net()
    insert(model, batches()[0], target=target)
    calibrate(model, batches(), progress=False)
    return model
