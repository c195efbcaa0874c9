from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from rsp_robot.pretrain.resample import crop_and_resize

NO, YES = torch.tensor([False]), torch.tensor([True])


def noise(height: int, width: int, batch: int = 1, views: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, views, height, width, 3), dtype=torch.uint8, generator=generator)


def smooth(height: int, width: int) -> torch.Tensor:
    """A picture of waves, within [28, 228], which no interpolation overshoots."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    waves = [torch.sin(5 * x + 3 * y), torch.cos(4 * x - 6 * y), torch.sin(7 * y)]
    return (128 + 100 * torch.stack(waves, dim=2)).round().to(torch.uint8)[None, None]


def by_torchvision(frames: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    left, top, width, height = box
    images = frames.permute(0, 1, 4, 2, 3).float()
    bicubic = InterpolationMode.BICUBIC
    return resized_crop(images, top, left, height, width, [size, size], bicubic, antialias=True).clamp(0, 255)


def cut(frames: torch.Tensor, box: tuple[int, int, int, int], size: int, flip: torch.Tensor = NO) -> torch.Tensor:
    return crop_and_resize(frames, torch.tensor([box]), flip, size)


BOXES = [(0, 0, 53, 40), (5, 3, 20, 30), (33, 0, 20, 20), (0, 24, 53, 16), (7, 9, 1, 1), (20, 1, 2, 39)]


@pytest.mark.parametrize("size", [5, 16, 37, 64])
@pytest.mark.parametrize("box", BOXES)
def test_a_box_is_resized_as_torchvision_does(box: tuple[int, int, int, int], size: int) -> None:
    for frames in (noise(40, 53, views=2), noise(53, 40, views=2).transpose(2, 3)):
        torch.testing.assert_close(cut(frames, box, size), by_torchvision(frames, box, size), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("height", "width"), [(40, 53), (53, 40), (45, 45)])
def test_high_and_wide_pictures_alike(height: int, width: int) -> None:
    frames, box = noise(height, width, views=3), (2, 1, 31, 39)
    torch.testing.assert_close(cut(frames, box, 24), by_torchvision(frames, box, 24), rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [12, 48])
@pytest.mark.parametrize("box", [(0, 0, 40, 36), (5, 3, 20, 30)])
def test_a_box_is_resized_as_pillow_does(box: tuple[int, int, int, int], size: int) -> None:
    frames, (left, top, width, height) = smooth(36, 40), box
    picture = Image.fromarray(frames[0, 0].numpy()).crop((left, top, left + width, top + height))
    expected = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    found = cut(frames, box, size)[0, 0].permute(1, 2, 0)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1.2)  # Pillow rounds after each axis


def test_a_box_at_equal_scale_cuts_pixels_out() -> None:
    frames = noise(32, 40)
    assert torch.equal(cut(frames, (5, 3, 16, 16), 16), frames[:, :, 3:19, 5:21].permute(0, 1, 4, 2, 3).float())


def test_a_flip_mirrors_the_cut_left_to_right() -> None:
    frames, box = noise(32, 40), (5, 3, 20, 12)
    plain, mirrored = cut(frames, box, 16), cut(frames, box, 16, YES)
    torch.testing.assert_close(mirrored, plain.flip(-1), rtol=0, atol=2e-3)
    assert (mirrored - plain).abs().mean() > 10


def test_every_sample_has_its_own_box_and_flip_and_all_its_frames_share_them() -> None:
    frames = noise(40, 53, batch=len(BOXES), views=3)
    flips = torch.arange(len(BOXES)) % 2 == 1
    together = crop_and_resize(frames, torch.tensor(BOXES), flips, 24)
    assert together.shape == (len(BOXES), 3, 3, 24, 24) and together.is_contiguous()
    for index, box in enumerate(BOXES):
        for view in range(3):
            alone = by_torchvision(frames[index : index + 1, view : view + 1], box, 24)[0, 0]
            expected = alone.flip(-1) if flips[index] else alone
            torch.testing.assert_close(together[index, view], expected, rtol=0, atol=2e-3)


def test_what_lies_outside_the_box_does_not_matter() -> None:
    frames, box = noise(40, 53), (5, 3, 20, 30)
    changed = 255 - frames
    changed[:, :, 3:33, 5:25] = frames[:, :, 3:33, 5:25]
    assert torch.equal(cut(frames, box, 24), cut(changed, box, 24))


def test_overshoot_is_cut_off() -> None:
    frames = torch.zeros(1, 1, 16, 32, 3, dtype=torch.uint8)
    frames[..., 16:, :] = 255
    found = cut(frames, (0, 0, 32, 16), 64)
    assert (found.min(), found.max()) == (0, 255)


def test_frames_are_not_changed() -> None:
    frames = noise(16, 16)
    before = frames.clone()
    cut(frames, (0, 0, 16, 16), 16)
    assert torch.equal(frames, before)
