from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from rsp_robot.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, as_frames

CPU = torch.device("cpu")


def raw(size: int) -> Preprocessing:
    """Resizes only: its output is in [0, 1]."""
    return Preprocessing(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def test_normalisation_by_hand() -> None:
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, 0, 1] = (255, 0, 51)
    images = Preprocessing(2)(frames, CPU)
    assert images.shape == (1, 3, 2, 2) and images.dtype == torch.float32
    # (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225
    torch.testing.assert_close(images[0, :, 0, 1], torch.tensor([2.2489083, -2.0357143, -0.9155556]))
    # black: -0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225
    torch.testing.assert_close(images[0, :, 1, 0], torch.tensor([-2.1179039, -2.0357143, -1.8044444]))


def test_the_default_statistics_are_imagenets() -> None:
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Preprocessing(8) == Preprocessing(8, IMAGENET_MEAN, IMAGENET_STD)


def test_other_statistics_are_used() -> None:
    images = Preprocessing(1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0))(np.full((1, 1, 1, 3), 255, np.uint8), CPU)
    assert images.flatten().tolist() == [1.0, 2.0, 0.5]


def test_denormalise_undoes_normalise_and_stays_in_range() -> None:
    preprocessing, frames = Preprocessing(8), noise(8, 8)
    back = preprocessing.denormalise(preprocessing(frames, CPU))
    torch.testing.assert_close(back, torch.from_numpy(frames).permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)
    wild = preprocessing.denormalise(torch.tensor([-9.0, 9.0]).expand(1, 3, 1, 2))
    assert wild[0, 0, 0].tolist() == [0.0, 1.0]


def test_frames_of_the_right_size_are_not_resampled() -> None:
    frames = noise(16, 16)
    images = raw(16)(frames, CPU)
    assert torch.equal(images, torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)


@pytest.mark.parametrize(("height", "width", "size"), [(48, 64, 16), (30, 30, 24), (8, 8, 20)])
def test_resize_is_torchvisions_antialiased_bicubic(height: int, width: int, size: int) -> None:
    pictures = torch.from_numpy(noise(height, width)).permute(0, 3, 1, 2).float()
    wanted = resize(pictures, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True).clamp(0, 255)
    found = raw(size)(noise(height, width), CPU) * 255
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width", "size"), [(48, 64, 16), (30, 30, 24), (8, 8, 20)])
def test_resize_agrees_with_pillow_and_with_torchvision_on_uint8(height: int, width: int, size: int) -> None:
    frames = (
        80 + noise(height, width) // 3
    )  # those two cut overshoot off after each pass: keep clear of black and white
    found = (raw(size)(frames, CPU) * 255).permute(0, 2, 3, 1)
    pillow = np.asarray(Image.fromarray(frames[0]).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(found[0].numpy() - pillow).max() <= 1.5  # they round, twice; we do not
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    whole = resize(pictures, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert float((found - whole.permute(0, 2, 3, 1)).abs().max()) <= 1.5


def test_overshoot_of_the_bicubic_kernel_is_clamped() -> None:
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames[:, :, 2:] = 255
    images = raw(16)(frames, CPU)
    assert float(images.min()) == 0.0 and float(images.max()) == 1.0


def test_pictures_stay_upright_unmirrored_and_rgb() -> None:
    frames = np.zeros((1, 40, 40, 3), np.uint8)
    frames[:, :20, :20, 0] = 255  # red at the top left
    frames[:, :20, 20:, 1] = 255  # green at the top right
    frames[:, 20:, :20, 2] = 255  # blue at the bottom left
    images = raw(4)(frames, CPU)[0]
    corners = {"red": images[:, 0, 0], "green": images[:, 0, 3], "blue": images[:, 3, 0], "black": images[:, 3, 3]}
    for channel, corner in enumerate(("red", "green", "blue")):
        expected = torch.zeros(3)
        expected[channel] = 1.0
        torch.testing.assert_close(corners[corner], expected, atol=0.05, rtol=0)
    torch.testing.assert_close(corners["black"], torch.zeros(3), atol=0.05, rtol=0)


def test_a_frame_does_not_depend_on_its_batch() -> None:
    frames = noise(20, 20)
    assert torch.equal(Preprocessing(8)(frames, CPU)[1:], Preprocessing(8)(frames[1:], CPU))


def test_arrays_tensors_and_views_give_the_same() -> None:
    frames = noise(12, 12)
    wanted = Preprocessing(8)(frames, CPU)
    assert torch.equal(Preprocessing(8)(torch.from_numpy(frames), CPU), wanted)
    flipped = np.ascontiguousarray(frames[:, ::-1])
    assert torch.equal(Preprocessing(8)(flipped[:, ::-1], CPU), wanted)  # a view with negative strides


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, bool])
def test_only_uint8_is_taken(dtype: type) -> None:
    with pytest.raises(TypeError, match="frames must be uint8 in .0, 255., got"):
        Preprocessing(4)(np.zeros((1, 4, 4, 3), dtype), CPU)
    with pytest.raises(TypeError, match="do not normalise before the encoder"):
        as_frames(torch.zeros(1, 4, 4, 3))


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([0.0, 1.0], r"these are in \[0, 1\], give \(frames \* 255\).round\(\) as uint8"),
        ([0.0, 254.5], r"give frames.round\(\) as uint8"),
        ([-2.5, 2.5], "these reach from -2.5 to 2.5, give the pictures as they were"),
        ([0.0, np.nan], "these hold NaN or infinity"),
    ],
)
def test_what_to_do_about_floats_depends_on_what_they_hold(values: list[float], remedy: str) -> None:
    frames = np.resize(np.array(values, np.float32), (1, 4, 4, 3))
    for given in (frames, torch.from_numpy(frames), torch.from_numpy(frames).bfloat16()):
        with pytest.raises(TypeError, match=remedy):
            Preprocessing(4)(given, CPU)


def test_lists_are_refused() -> None:
    with pytest.raises(TypeError, match="frames must be an array or a tensor, got list; stack them"):
        Preprocessing(4)([np.zeros((4, 4, 3), np.uint8)], CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((4, 4, 3), r"this is a single picture: give frames\[None\]"),
        ((1, 3, 4, 4), r"channels come first here: give numpy.moveaxis\(frames, -3, -1\), or"),
        ((3, 4, 4), r"channels come first here: give numpy.moveaxis\(frames, -3, -1\)\[None\]"),
        ((1, 4, 4, 4), r"these have a fourth channel: give frames\[..., :3\]"),
        ((1, 1, 4, 4, 3), r"this is a batch of clips: give frames.reshape\(-1"),
        ((4, 4), "give a batch of RGB pictures, channels last"),
    ],
)
def test_only_batches_of_rgb_pictures_are_taken(shape: tuple[int, ...], remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"frames must be \(batch, height, width, 3\), got .*; {remedy}"):
        Preprocessing(4)(np.zeros(shape, np.uint8), CPU)


def test_the_remedy_for_channels_first_is_one() -> None:
    frames = noise(4, 4)
    wanted = Preprocessing(4)(frames, CPU)
    first = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    assert torch.equal(Preprocessing(4)(np.moveaxis(first, -3, -1), CPU), wanted)
    assert torch.equal(Preprocessing(4)(torch.from_numpy(first).movedim(-3, -1), CPU), wanted)
