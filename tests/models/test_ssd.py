"""The SSD: how many boxes it gives, in which order, and its size."""

import torch
from torch import nn

from models.ssd import BOXES, STRIDES, Ssd, ssd


def test_every_cell_of_every_map_gives_its_boxes() -> None:
    scores, places = Ssd(num_classes=3, width=4).eval()(torch.zeros(2, 3, 64, 128))
    boxes = sum(
        64 // stride * 128 // stride * count for stride, count in zip(STRIDES, BOXES, strict=True)
    )
    assert scores.shape == (2, boxes, 4)
    assert places.shape == (2, boxes, 4)


def test_the_one_for_20_classes_has_its_size() -> None:
    assert sum(parameter.numel() for parameter in ssd().parameters()) == 701_380


@torch.no_grad()
def test_boxes_come_by_map_row_column_and_box() -> None:
    torch.manual_seed(0)
    model = ssd(num_classes=2).eval()
    maps: list[torch.Tensor] = []
    for head in model.scores:
        head.register_forward_hook(lambda _, args, result: maps.append(result))
    scores, _ = model(torch.randn(1, 3, 64, 64))
    fine = maps[0][0].reshape(BOXES[0], 3, 8, 8)  # box, score, row, column
    row, column, box = 5, 2, 3
    place = (row * 8 + column) * BOXES[0] + box
    torch.testing.assert_close(scores[0, place], fine[box, :, row, column])
    torch.testing.assert_close(scores[0, -1], maps[-1][0, -3:, 0, 0])


@torch.no_grad()
def test_coarse_maps_see_the_whole_image() -> None:
    torch.manual_seed(0)
    model = ssd(num_classes=2).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.fill_(0.1)
    x = torch.randn(1, 3, 64, 64)
    other = x.clone()
    other[..., -1, -1] += 10
    first, second = model(x)[0][0], model(other)[0][0]
    assert torch.equal(first[0], second[0])  # the finest map's first cell does not
    assert not torch.equal(first[-1], second[-1])
