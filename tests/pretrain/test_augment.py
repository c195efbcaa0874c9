from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.augment import Augmentation, crop_and_flip, draw_boxes
from rsp_robot.pretrain.config import PretrainConfig

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


# -- samples of several frames -----------------------------------------------------------------------------------------


def pictures(batch: int = 6, views: int = 2) -> torch.Tensor:
    """Samples ``(B, K, H, W, 3)``, every frame another one."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (batch, views, 16, 16, 3), dtype=torch.uint8, generator=generator)


def alike(batch: int = 6, views: int = 2) -> torch.Tensor:
    """Samples whose frames are all the same picture."""
    return pictures(1, 1).repeat(batch, views, 1, 1, 1)


def augmented(frames: torch.Tensor, seed: int = 0, **settings: Any) -> torch.Tensor:
    return Augmentation(16, **settings)(frames, torch.Generator().manual_seed(seed))


def as_the_encoder_sees(frames: torch.Tensor) -> torch.Tensor:
    whole = Preprocessing(16)(frames.flatten(0, 1).numpy(), torch.device("cpu"))
    return whole.unflatten(0, frames.shape[:2])


def mirrored(found: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """``(B, K)``: which frames were mirrored; every other one has to be as it was."""
    expected = as_the_encoder_sees(frames)
    as_it_was = (found - expected).abs().amax(dim=(2, 3, 4)) < 1e-2
    turned = (found.flip(-1) - expected).abs().amax(dim=(2, 3, 4)) < 1e-2
    assert (as_it_was ^ turned).all()
    return turned


@pytest.mark.parametrize("views", [2, 3])
def test_all_frames_of_a_sample_are_cut_and_mirrored_alike(views: int) -> None:
    frames = pictures(6, 1).repeat(1, views, 1, 1, 1)
    found = augmented(frames)
    assert found.shape == (6, views, 3, 16, 16) and found.dtype == torch.float32
    assert all(torch.equal(found[:, 0], found[:, view]) for view in range(views))
    assert not torch.allclose(found, as_the_encoder_sees(frames), atol=0.1)
    assert torch.equal(found, augmented(frames)) and not torch.allclose(found, augmented(frames, seed=1))


def test_each_frame_on_its_own() -> None:
    frames = pictures(64, 1).repeat(1, 2, 1, 1, 1)
    found = augmented(frames, same=False)
    assert torch.equal(found, augmented(frames, same=False))
    assert ((found[:, 0] - found[:, 1]).abs().amax(dim=(1, 2, 3)) > 0.1).all()
    turned = mirrored(augmented(frames, same=False, min_crop=1.0), frames)
    assert 0.3 < (turned[:, 0] == turned[:, 1]).float().mean() < 0.7, "mirrored independently of each other"
    together = mirrored(augmented(frames, min_crop=1.0), frames)
    assert (together[:, 0] == together[:, 1]).all()


@pytest.mark.parametrize("same", [True, False])
def test_frames_keep_their_places(same: bool) -> None:
    frames = pictures(5, 3)
    found = augmented(frames, same=same, min_crop=1.0)
    mirrored(found, frames)
    for sample, view in ((0, 0), (4, 2), (2, 1)):
        changed = frames.clone()
        changed[sample, view] = 0
        different = (augmented(changed, same=same) != augmented(frames, same=same)).flatten(2).any(dim=2)
        assert different.nonzero().tolist() == [[sample, view]]


def test_samples_of_a_batch_are_cut_differently() -> None:
    first = augmented(alike(), flip=False)[:, 0]
    assert all((first[i] - first[j]).abs().max() > 0.1 for i in range(6) for j in range(i))


@pytest.mark.parametrize("same", [True, False])
def test_without_augmentation_training_sees_what_the_encoder_will(same: bool) -> None:
    frames = pictures()
    found = augmented(frames, min_crop=1.0, flip=False, same=same)
    torch.testing.assert_close(found, as_the_encoder_sees(frames), rtol=0, atol=1e-3)


def test_half_of_the_samples_are_mirrored() -> None:
    frames = alike(400)
    assert 0.4 < mirrored(augmented(frames, min_crop=1.0), frames).float().mean() < 0.6
    assert not mirrored(augmented(frames, min_crop=1.0, flip=False), frames).any()


def test_crops_are_as_large_as_asked() -> None:
    """A ramp from left to right: its spread in a crop tells the crop's width."""
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8)[None, None, None, :, None].expand(200, 1, 32, 32, 3)
    whole = augmented(ramp[:1], min_crop=1.0, flip=False)
    widths = {}
    for least in (0.5, 0.9):
        found = augmented(ramp, min_crop=least, flip=False)
        spread = (found[..., -1] - found[..., 0]).mean(dim=(1, 2, 3))
        widths[least] = spread / (whole[..., -1] - whole[..., 0]).mean()
    assert (0.5 * 3 / 4) ** 0.5 - 0.05 < widths[0.5].min() < 0.75
    assert (0.9 * 3 / 4) ** 0.5 - 0.05 < widths[0.9].min() < widths[0.9].max() <= 1.02


def test_the_augmentation_that_a_run_asks_for() -> None:
    config = PretrainConfig(Path("d"), Path("o"), image_size=64, min_crop=0.7, flip=False, same_augmentation=False)
    assert Augmentation.of(config) == Augmentation(image_size=64, min_crop=0.7, flip=False, same=False)
    assert Augmentation.of(PretrainConfig(Path("d"), Path("o"))) == Augmentation(224)
