"""The detector: three maps, the size of its model, and what pyramid pooling computes."""

import torch
from torch.nn import functional as F

from models.yolo import ANCHORS, STRIDES, PyramidPool, yolo


def test_an_image_gives_one_map_per_stride() -> None:
    maps = yolo(num_classes=2).eval()(torch.zeros(2, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [
        (2, ANCHORS * 7, 64 // stride, 96 // stride) for stride in STRIDES
    ]


def test_it_is_as_large_as_yolov5n() -> None:
    assert sum(parameter.numel() for parameter in yolo().parameters()) == 1_872_157


@torch.no_grad()
def test_three_poolings_in_a_row_are_those_over_5_9_and_13() -> None:
    torch.manual_seed(0)
    pool = PyramidPool(4).eval()
    seen: list[torch.Tensor] = []
    pool.leave.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 4, 16, 16)
    pool(x)
    entered = pool.enter(x)
    wide = [F.max_pool2d(entered, size, 1, size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(seen[0], torch.cat((entered, *wide), 1))
