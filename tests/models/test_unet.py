"""U-Net: the output has the size of the input, and the way up reads the way down."""

import torch
from torch import nn

from models.unet import UNet, unet


def test_every_pixel_gets_one_logit_per_class() -> None:
    model = UNet(channels=1, num_classes=3, width=4, depth=2).eval()
    assert model(torch.zeros(2, 1, 8, 12)).shape == (2, 3, 8, 12)


def test_with_the_papers_widths_it_has_31_million_parameters() -> None:
    model = unet()
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_037_698
    rising = [each for each in model.modules() if isinstance(each, nn.ConvTranspose2d)]
    assert [each.in_channels for each in rising] == [1024, 512, 256, 128]


@torch.no_grad()
def test_single_pixels_get_through_although_the_bottom_is_coarse() -> None:
    torch.manual_seed(0)
    model = unet(width=4).eval()
    for up in model.up:  # nothing comes from below any more
        nn.init.zeros_(up.rise.weight)
        nn.init.zeros_(up.rise.bias)
    x = torch.randn(1, 3, 16, 16)
    y = model(x)
    assert y.std(dim=(2, 3)).min() > 0
