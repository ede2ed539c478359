"""A net with two inputs, its batches, and calibrating it with the method whose ranges are plain."""

from typing import Any

import torch
from torch import Tensor, nn

import qdq

Range = tuple[float, float]


def ranges(model: nn.Module) -> dict[str, Range | None]:
    return {
        site: None if q.amax is None else (float(q.amin), float(q.amax))  # type: ignore[arg-type]
        for site, q in qdq.quantizers(model).items()
        if not q.dynamic
    }


def calibrated(model: nn.Module, data: Any, **options: Any) -> dict[str, Range | None]:
    qdq.calibrate(model, data, method="max", progress=False, **options)
    return ranges(model)


class Net(nn.Module):
    """Two inputs, layers and a call, a ReLU that clamps an output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm(self.conv(x)) + x)
        return self.head(x.mean((2, 3)) * gate)  # type: ignore[no-any-return]


def net() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    qdq.insert(model, (torch.zeros(1, 2, 6, 6), torch.ones(1, 4)), target="onnxruntime")
    return model


def pairs(count: int = 4, sides: tuple[int, ...] = (6,)) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(1 + i % 3, 2, sides[i % len(sides)], 5 + i % 2, generator=made),
            torch.rand(1 + i % 3, 4, generator=made),
        )
        for i in range(count)
    ]
