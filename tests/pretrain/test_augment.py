from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from rsp_robot.pretrain.augment import crop_and_flip, draw_boxes

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
NO, YES = torch.tensor([False]), torch.tensor([True])


def noise(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return 255 * torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def smooth(side: int) -> torch.Tensor:
    """A picture of waves, within [28, 228], which no interpolation overshoots."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    waves = [torch.sin(5 * x + 3 * y), torch.cos(4 * x - 6 * y), torch.sin(7 * y)]
    return 128 + 100 * torch.stack(waves)[None]


def box(left: float, top: float, width: float, height: float, side: int) -> torch.Tensor:
    """A box in pixels of a square picture."""
    return torch.tensor([[left, top, width, height]]) / side


def test_the_whole_picture_at_its_own_size_stays_as_it_is() -> None:
    images = noise(24, 24)
    torch.testing.assert_close(crop_and_flip(images, WHOLE, NO, 24), images, rtol=0, atol=0.01)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (5, 3), (16, 16), (0, 16)])
def test_a_box_at_equal_scale_cuts_pixels_out(left: int, top: int) -> None:
    images = noise(32, 32)
    found = crop_and_flip(images, box(left, top, 16, 16, 32), NO, 16)
    expected = resized_crop(images, top, left, 16, 16, [16, 16], InterpolationMode.BICUBIC)
    torch.testing.assert_close(expected, images[..., top : top + 16, left : left + 16])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(("left", "top", "width", "height"), [(4, 10, 24, 16), (0, 0, 20, 32), (7, 2, 11, 27)])
def test_a_box_is_resized_as_torchvision_does(left: int, top: int, width: int, height: int) -> None:
    images = smooth(40)
    found = crop_and_flip(images, box(left, top, width, height, 40), NO, 48)
    expected = resized_crop(images, top, left, height, width, [48, 48], InterpolationMode.BICUBIC, antialias=False)
    # At its rim torchvision repeats the crop's own pixels, here those around the crop are seen.
    inner = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=0.05)
    torch.testing.assert_close(found, expected, rtol=0, atol=6.0)


def test_a_flip_mirrors_the_cut_left_to_right() -> None:
    images, boxes = noise(32, 32), box(3, 9, 16, 12, 32)
    plain, mirrored = crop_and_flip(images, boxes, NO, 16), crop_and_flip(images, boxes, YES, 16)
    torch.testing.assert_close(mirrored, plain.flip(-1), rtol=0, atol=0.01)
    assert (mirrored - plain).abs().mean() > 10


def test_every_sample_has_its_own_box_and_flip() -> None:
    images = noise(16, 16).repeat(3, 1, 1, 1)
    boxes = torch.cat([WHOLE, box(2, 4, 8, 8, 16), box(2, 4, 8, 8, 16)])
    flips = torch.tensor([False, False, True])
    together = crop_and_flip(images, boxes, flips, 12)
    for index in range(3):
        alone = crop_and_flip(images[:1], boxes[index : index + 1], flips[index : index + 1], 12)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-4)


def test_a_wide_picture_becomes_square_and_overshoot_is_cut() -> None:
    images = torch.zeros(1, 3, 16, 32)
    images[..., 16:] = 255
    found = crop_and_flip(images, WHOLE, NO, 64)
    assert found.shape == (1, 3, 64, 64)
    assert (found.min(), found.max()) == (0, 255)
    assert found[..., :24].max() < 0.01 and found[..., 40:].min() > 254.99


def test_boxes_lie_inside_the_picture() -> None:
    left, top, width, height = draw_boxes(5000, torch.Generator().manual_seed(0), (0.2, 1.0)).unbind(1)
    assert left.min() >= 0 and top.min() >= 0
    assert (left + width).max() <= 1 + 1e-6 and (top + height).max() <= 1 + 1e-6
    assert (width * height).max() <= 1
    inside = (width < 1) & (height < 1)
    area = (width * height)[inside]
    assert area.min() >= 0.2 - 1e-6 and area.min() < 0.21
    aspect = (width / height)[inside]
    assert aspect.min() >= 3 / 4 - 1e-6 and aspect.max() <= 4 / 3 + 1e-6


def test_area_aspect_and_place_are_drawn_from_their_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    left, top, width, height = draw_boxes(8000, generator, scale=(0.05, 0.2), ratio=(1.0, 4.0)).unbind(1)
    assert float((width * height).mean()) == pytest.approx(0.125, abs=0.003), "the area is uniform"
    assert float((width / height).median()) == pytest.approx(2.0, abs=0.1), "the logarithm of the aspect is uniform"
    for start, side in ((left, width), (top, height)):
        place = start / (1 - side)
        assert float(place.mean()) == pytest.approx(0.5, abs=0.02)
        assert place.min() < 0.01 and place.max() > 0.99
    assert abs(float(torch.corrcoef(torch.stack([left / (1 - width), top / (1 - height)]))[0, 1])) < 0.05


def test_extreme_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(draw_boxes(3, generator, (1.0, 1.0), (1.0, 1.0)), WHOLE.repeat(3, 1))
    quarter = draw_boxes(3, generator, (0.25, 0.25), (1.0, 1.0))
    torch.testing.assert_close(quarter[:, 2:], torch.full((3, 2), 0.5))
    wide = draw_boxes(3, generator, (1.0, 1.0), (4.0, 4.0))  # 2 wide and 1/2 high, cut to the picture
    torch.testing.assert_close(wide[:, 2:], torch.tensor([[1.0, 0.5]]).repeat(3, 1))


def test_boxes_follow_the_generator() -> None:
    first, again, other = (draw_boxes(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
