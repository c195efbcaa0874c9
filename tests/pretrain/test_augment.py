from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.augment import Augmentation, draw_boxes, draw_inside, draw_jitter, jitter_colors
from rsp_robot.pretrain.config import PretrainConfig

# -- boxes -------------------------------------------------------------------------------------------------------------


def boxes_of(height: int, width: int, number: int, seed: int = 0, **settings: Any) -> np.ndarray:
    sizes = torch.tensor([[height, width]]).expand(number, 2)
    return draw_boxes(sizes, torch.Generator().manual_seed(seed), **settings).numpy()


def boxes_of_torchvision(height: int, width: int, number: int, scale: tuple[float, float]) -> np.ndarray:
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(picture, list(scale), [3 / 4, 4 / 3]) for _ in range(number)]
    return np.array([(left, top, wide, high) for top, left, high, wide in drawn], np.float32)


@pytest.mark.parametrize("scale", [(0.5, 1.0), (0.1, 0.4)])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 80), (90, 40)])
def test_boxes_are_distributed_as_those_of_torchvision(height: int, width: int, scale: tuple[float, float]) -> None:
    number = 4000
    drawn = (boxes_of(height, width, number, scale=scale), boxes_of_torchvision(height, width, number, scale))
    compared = {
        "area": [wide * high for _, _, wide, high in (boxes.T for boxes in drawn)],
        "aspect": [wide / high for _, _, wide, high in (boxes.T for boxes in drawn)],
        "left": [boxes[:, 0] for boxes in drawn],
        "top": [boxes[:, 1] for boxes in drawn],
        "middle across": [left + wide / 2 for left, _, wide, _ in (boxes.T for boxes in drawn)],
        "middle down": [top + high / 2 for _, top, _, high in (boxes.T for boxes in drawn)],
    }
    # Samples of the same distribution exceed this Kolmogorov-Smirnov distance once in 8000 times.
    largest = 2.2 * (2 / number) ** 0.5
    for name, (ours, theirs) in compared.items():
        assert ks_2samp(ours, theirs, method="asymp").statistic < largest, name
        assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=0.1 * float(theirs.std()) + 1e-6), name
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1), name


@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 80), (7, 5)])
def test_boxes_are_whole_pixels_inside_the_picture(height: int, width: int) -> None:
    boxes = boxes_of(height, width, 3000, scale=(0.2, 1.0))
    assert np.array_equal(boxes, boxes.round())
    left, top, wide, high = boxes.T
    assert left.min() == 0 and top.min() == 0 and wide.min() >= 1 and high.min() >= 1
    assert (left + wide).max() == width and (top + high).max() == height


def test_every_place_is_as_likely() -> None:
    left, top, wide, high = boxes_of(4, 4, 8000, scale=(0.25, 0.25), ratio=(1.0, 1.0)).T
    assert (wide == 2).all() and (high == 2).all()
    counts = np.histogram2d(left, top, bins=[-0.5, 0.5, 1.5, 2.5])[0]
    np.testing.assert_allclose(counts / 8000, np.full((3, 3), 1 / 9), atol=0.02)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (40, 100, (23, 0, 53, 40)),  # too wide: 40 x 4/3 = 53.3, (100 - 53) // 2
        (100, 40, (0, 23, 40, 53)),
        (30, 36, (0, 0, 36, 30)),  # its aspect is allowed: all of it
    ],
)
def test_where_no_box_fits_it_is_the_largest_central_one(
    height: int, width: int, expected: tuple[int, int, int, int]
) -> None:
    never = {"scale": (2.0, 2.0)}
    assert (boxes_of(height, width, 5, **never) == np.array(expected)).all()
    top, left, high, wide = RandomResizedCrop.get_params(torch.empty(3, height, width), [2.0, 2.0], [3 / 4, 4 / 3])
    assert (left, top, wide, high) == expected


def test_each_picture_has_a_box_of_its_own_size_whatever_the_others_are() -> None:
    sizes = torch.tensor([[64, 64], [16, 48], [100, 20]])
    boxes = draw_boxes(sizes, torch.Generator().manual_seed(0))
    for index, (height, width) in enumerate(sizes.tolist()):
        left, top, wide, high = boxes[index].tolist()
        assert left + wide <= width and top + high <= height
    changed = torch.tensor([[64, 64], [33, 44], [100, 20]])
    again = draw_boxes(changed, torch.Generator().manual_seed(0))
    assert torch.equal(boxes[[0, 2]], again[[0, 2]]) and not torch.equal(boxes[1], again[1])


def test_boxes_follow_the_generator() -> None:
    first, again, other = (boxes_of(64, 64, 4, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# -- samples of several frames -----------------------------------------------------------------------------------------


def pictures(batch: int = 6, views: int = 2, height: int = 16, width: int = 16) -> torch.Tensor:
    """Samples ``(B, K, H, W, 3)``, every frame another one."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (batch, views, height, width, 3), dtype=torch.uint8, generator=generator)


def alike(batch: int = 6, views: int = 2) -> torch.Tensor:
    """Samples whose frames are all the same picture."""
    return pictures(1, 1).repeat(batch, views, 1, 1, 1)


def augmented(
    frames: torch.Tensor, seed: int = 0, sizes: torch.Tensor | None = None, side: int = 16, **settings: Any
) -> torch.Tensor:
    return Augmentation(side, **settings)(frames, sizes, torch.Generator().manual_seed(seed))


def as_the_encoder_sees(frames: torch.Tensor, side: int = 16) -> torch.Tensor:
    whole = Preprocessing(side)(frames.flatten(0, 1).numpy(), torch.device("cpu"))
    return whole.unflatten(0, frames.shape[:2])


def mirrored(found: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """``(B, K)``: which frames were mirrored; every other one has to be as it was."""
    expected = as_the_encoder_sees(frames)
    as_it_was = (found - expected).abs().amax(dim=(2, 3, 4)) < 1e-2
    turned = (found.flip(-1) - expected).abs().amax(dim=(2, 3, 4)) < 1e-2
    assert (as_it_was ^ turned).all()
    return turned


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (30, 41), (41, 30), (9, 12)])
def test_without_augmentation_training_sees_what_the_encoder_will(height: int, width: int, same: bool) -> None:
    frames = pictures(3, 2, height, width)
    found = augmented(frames, min_crop=1.0, flip=False, same=same)
    torch.testing.assert_close(found, as_the_encoder_sees(frames), rtol=0, atol=1e-4)


def on_a_canvas(sizes: torch.Tensor, views: int = 2, rest: int = 0) -> torch.Tensor:
    """Pictures of several sizes in the top left of one canvas."""
    height, width = sizes.amax(dim=0).tolist()
    frames = pictures(len(sizes), views, height, width)
    for frame, (high, wide) in zip(frames, sizes.tolist(), strict=True):
        frame[:, high:] = rest
        frame[:, :, wide:] = rest
    return frames


@pytest.mark.parametrize("same", [True, False])
def test_pictures_of_several_sizes_are_seen_whole_and_without_the_canvas(same: bool) -> None:
    sizes = torch.tensor([[30, 41], [12, 20], [25, 16]])
    frames = on_a_canvas(sizes)
    found = augmented(frames, sizes=sizes, min_crop=1.0, flip=False, same=same)
    for index, (height, width) in enumerate(sizes.tolist()):
        expected = as_the_encoder_sees(frames[index : index + 1, :, :height, :width])
        torch.testing.assert_close(found[index : index + 1], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_crops_stay_off_the_rest_of_the_canvas(same: bool) -> None:
    sizes = torch.tensor([[30, 41], [12, 20], [25, 16]])
    black, white = (augmented(on_a_canvas(sizes, rest=rest), sizes=sizes, same=same) for rest in (0, 255))
    assert torch.equal(black, white)


def test_crops_are_those_of_torchvision() -> None:
    frames = pictures(5, 2, 30, 41)
    found = augmented(frames, flip=False, side=24)
    boxes = draw_boxes(torch.tensor([[30, 41]]).expand(5, 2), torch.Generator().manual_seed(0)).long().tolist()
    for index, (left, top, width, height) in enumerate(boxes):
        images, bicubic = frames[index].permute(0, 3, 1, 2).float(), InterpolationMode.BICUBIC
        expected = tv.resized_crop(images, top, left, height, width, [24, 24], bicubic, antialias=True).clamp(0, 255)
        torch.testing.assert_close(found[index], Preprocessing(24).normalise(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("views", [2, 3])
def test_all_frames_of_a_sample_are_treated_alike(views: int) -> None:
    frames = pictures(6, 1).repeat(1, views, 1, 1, 1)
    found = augmented(frames, color_jitter=0.4)
    assert found.shape == (6, views, 3, 16, 16) and found.dtype == torch.float32
    for view in range(views):
        torch.testing.assert_close(found[:, 0], found[:, view], rtol=0, atol=1e-4)
    assert not torch.allclose(found, as_the_encoder_sees(frames), atol=0.1)
    assert torch.equal(found, augmented(frames, color_jitter=0.4))
    assert not torch.allclose(found, augmented(frames, seed=1, color_jitter=0.4))


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
        different = (augmented(changed, same=same, min_crop=1.0) != found).flatten(2).any(dim=2)
        assert different.nonzero().tolist() == [[sample, view]]


def test_samples_of_a_batch_are_cut_differently() -> None:
    first = augmented(alike(), flip=False)[:, 0]
    assert all((first[i] - first[j]).abs().max() > 0.1 for i in range(6) for j in range(i))


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


# -- a crop inside the crop --------------------------------------------------------------------------------------------


def ranges(batch: int = 300, side: int = 64, seed: int = 0, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What two views of a picture show of it, each ``(batch, 2, 2)``: view, then from and to, in pixels; across, down.

    Red grows from left to right and green from top to bottom; the outermost pixels of a view tell its rim.
    """
    place = torch.arange(side, dtype=torch.uint8) * (256 // side)
    red, green = place.expand(side, side), place[:, None].expand(side, side)
    frames = torch.stack([red, green, 0 * red], dim=-1).expand(batch, 2, side, side, 3)
    found = augmented(frames, seed=seed, inner=(0.3, 0.6), **settings)
    pixels = found * torch.tensor(Preprocessing(16).std).view(3, 1, 1) + torch.tensor(Preprocessing(16).mean).view(
        3, 1, 1
    )
    shown = pixels * 255 * side / 256
    across, down = shown[:, :, 0].mean(dim=2), shown[:, :, 1].mean(dim=3)
    return across[..., [0, -1]], down[..., [0, -1]]


def test_the_second_view_is_cropped_inside_the_first() -> None:
    spans = []
    for one in ranges(flip=False):
        outer, inner = one[:, 0], one[:, 1]
        assert (inner[:, 0] > outer[:, 0] - 1.5).all() and (inner[:, 1] < outer[:, 1] + 1.5).all()
        spans.append((one[..., 1] - one[..., 0]) * 16 / 15)  # from rim to rim instead of between middles of pixels
    areas = spans[0] * spans[1]
    share = areas[:, 1] / areas[:, 0]
    assert 0.26 < share.min() < 0.36 and 0.54 < share.max() < 0.66
    whole = areas[:, 0] / 64**2
    assert 0.46 < whole.min() < 0.56 and 0.94 < whole.max() < 1.04, "the first is as without"
    uncropped = ranges(min_crop=1.0, flip=False)
    assert all((one[:, 0] - one[0, 0]).abs().max() < 1e-3 for one in uncropped)


def test_both_views_are_mirrored_and_coloured_alike_or_each_on_its_own() -> None:
    across, _ = ranges()
    turned = across[..., 0] > across[..., 1]
    assert torch.equal(turned[:, 0], turned[:, 1]) and 0.4 < turned.float().mean() < 0.6
    across, _ = ranges(same=False)
    turned = across[..., 0] > across[..., 1]
    assert 0.35 < (turned[:, 0] == turned[:, 1]).float().mean() < 0.65
    grey = torch.full((8, 2, 20, 20, 3), 100, dtype=torch.uint8)
    tint = augmented(grey, inner=(0.3, 0.6), color_jitter=0.4).mean(dim=(3, 4))
    torch.testing.assert_close(tint[:, 0], tint[:, 1], rtol=0, atol=1e-4)
    assert tint[:, 0].std(dim=0).min() > 0.05
    alone = augmented(grey, inner=(0.3, 0.6), color_jitter=0.4, same=False).mean(dim=(3, 4))
    assert ((alone[:, 0] - alone[:, 1]).abs().amax(dim=1) > 0.01).all()


def test_inner_boxes_are_drawn_as_in_a_picture_of_the_outer_ones_size() -> None:
    outer = torch.tensor([[3.0, 5.0, 30.0, 40.0], [0.0, 0.0, 7.0, 5.0], [10.0, 1.0, 2.0, 50.0]])
    inner = draw_inside(outer, torch.Generator().manual_seed(0), (0.3, 0.6))
    sizes = outer[:, [3, 2]].long()
    expected = draw_boxes(sizes, torch.Generator().manual_seed(0), (0.3, 0.6))
    assert torch.equal(inner[:, 2:], expected[:, 2:]) and torch.equal(inner[:, :2] - outer[:, :2], expected[:, :2])
    many = draw_inside(outer[:2].repeat(500, 1), torch.Generator().manual_seed(1), (0.3, 0.6))
    ends, limits = many[:, :2] + many[:, 2:], (outer[:2, :2] + outer[:2, 2:]).repeat(500, 1)
    assert (many[:, :2] >= outer[:2, :2].repeat(500, 1)).all() and (ends <= limits).all() and (many[:, 2:] >= 1).all()


def test_frames_that_differ_in_size_are_cropped_inside_their_own_pictures() -> None:
    frames = torch.zeros(40, 2, 32, 32, 3, dtype=torch.uint8)
    frames[:, :, :10, :14] = 200
    found = augmented(frames, sizes=torch.tensor([[10, 14]]).expand(40, 2), inner=(0.3, 0.6))
    assert found[:, :, 0].std() < 1e-3, "no pixel of the canvas beside them"


# -- colours -----------------------------------------------------------------------------------------------------------


def test_colours_change_as_torchvision_defines_it() -> None:
    images = pictures(3, 2).permute(0, 1, 4, 2, 3).float()
    factors = torch.tensor([[0.7, 1.3, 1.0], [1.4, 0.6, 1.2], [0.5, 1.0, 1.5], [0.1, -0.1, 0.02]])
    found = jitter_colors(images, factors)
    for index, (brightness, contrast, saturation, hue) in enumerate(factors.T.tolist()):
        for view in range(2):
            expected = tv.adjust_brightness(images[index, view] / 255, brightness)
            expected = tv.adjust_saturation(tv.adjust_contrast(expected, contrast), saturation)
            expected = 255 * tv.adjust_hue(expected, hue)
            torch.testing.assert_close(found[index, view], expected, rtol=0, atol=0.1)


def test_factors_lie_evenly_within_the_strength() -> None:
    factors = draw_jitter(4000, torch.Generator().manual_seed(0), 0.4)
    for factor, middle, spread in zip(factors, (1, 1, 1, 0), (0.4, 0.4, 0.4, 0.1), strict=True):
        assert middle - spread <= float(factor.min()) < middle - 0.95 * spread
        assert middle + 0.95 * spread < float(factor.max()) <= middle + spread
        assert float(factor.mean()) == pytest.approx(middle, abs=0.05 * spread * 2)
        assert float(factor.std()) == pytest.approx(spread / math.sqrt(3), rel=0.05)
    assert (torch.corrcoef(factors) - torch.eye(4)).abs().max() < 0.1


def test_colours_differ_across_a_batch_and_leave_crops_and_flips_as_they_are() -> None:
    frames = alike(6)
    plain, coloured = augmented(frames, min_crop=1.0), augmented(frames, min_crop=1.0, color_jitter=0.4)
    tint = coloured.mean(dim=(3, 4))
    assert all((tint[i, 0] - tint[j, 0]).abs().max() > 0.01 for i in range(6) for j in range(i))
    torch.testing.assert_close(tint[:, 0], tint[:, 1], rtol=0, atol=1e-4)
    alone = augmented(frames, min_crop=1.0, color_jitter=0.4, same=False).mean(dim=(3, 4))
    assert ((alone[:, 0] - alone[:, 1]).abs().amax(dim=1) > 0.01).all()
    barely = augmented(frames, color_jitter=1e-6)
    torch.testing.assert_close(barely, augmented(frames), rtol=0, atol=1e-3)
    assert not torch.allclose(plain, coloured, atol=0.1)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_the_augmentation_that_a_run_asks_for() -> None:
    config = PretrainConfig("d", Path("o"))
    assert Augmentation.of(config) == Augmentation(224)
    asked = dataclasses.replace(
        config, image_size=64, min_crop=0.7, flip=False, same_augmentation=False, color_jitter=0.3
    )
    assert Augmentation.of(asked) == Augmentation(64, min_crop=0.7, flip=False, same=False, color_jitter=0.3)
