"""The small VGG: shapes, its stated size, and how many stages fit an image."""

import pytest
import torch

from models.vgg import Vgg, vgg_small


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_cifar_image_gives_one_logit_per_class(batch_norm: bool) -> None:
    model = Vgg(widths=(4, 8), num_classes=7, batch_norm=batch_norm).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_small_one_is_as_large_as_it_says() -> None:
    assert sum(parameter.numel() for parameter in vgg_small().parameters()) == 814_570


@pytest.mark.parametrize("widths", [(), (4,) * 6])
def test_more_stages_than_an_image_has_room_for_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"makes {len(widths)} stages") as caught:
        Vgg(widths=widths)
    assert "\n  fix: pass one to five widths" in str(caught.value)
