from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rsp_robot.resample import bicubic_weights, keys_kernel, resize_matrix


def test_the_kernel_is_that_of_keys() -> None:
    distances = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    assert keys_kernel(distances).tolist() == [1, 0.5625, 0, -0.0625, 0, 0]


def test_weights_of_an_axis_twice_as_long() -> None:
    """Places 0.25 and 0.75 of a pixel from the nearest ones; at the rim the rest is normalised."""
    weights = bicubic_weights(torch.zeros(1), torch.tensor([4.0]), 8, 4)[0]
    torch.testing.assert_close(weights[3], torch.tensor([-0.0703125, 0.8671875, 0.2265625, -0.0234375]))
    rim = torch.tensor([0.8671875, -0.0703125]) / (0.8671875 - 0.0703125)  # the first place, -0.25, sees pixels 0 and 1
    torch.testing.assert_close(weights[0], torch.tensor([*rim.tolist(), 0, 0]))


def test_a_shrinking_axis_is_averaged_over_a_wider_stretch() -> None:
    weights = bicubic_weights(torch.zeros(1), torch.tensor([16.0]), 8, 16)[0]
    near, far = [0.8671875, 0.2265625], [-0.0703125, -0.0234375]  # half pixels off, halved: 0.25 ... 1.75
    expected = torch.tensor([far[1], far[0], near[1], near[0], near[0], near[1], far[0], far[1]]) / 2
    torch.testing.assert_close(weights[4, 5:13], expected)
    assert weights[4, :5].abs().max() == 0 and weights[4, 13:].abs().max() == 0


def test_weights_stay_within_the_stretch_and_sum_to_one() -> None:
    start, length = torch.tensor([3.0, 0.0, 9.0]), torch.tensor([5.0, 12.0, 1.0])
    weights = bicubic_weights(start, length, 7, 12)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 7))
    assert weights[0, :, :3].abs().max() == 0 and weights[0, :, 8:].abs().max() == 0
    assert torch.equal(weights[2], torch.eye(12)[9].expand(7, 12)), "one pixel is repeated"


def test_flipped_weights_are_turned_round() -> None:
    start, length = torch.tensor([3.0, 3.0]), torch.tensor([5.0, 5.0])
    weights = bicubic_weights(start, length, 7, 12, torch.tensor([False, True]))
    torch.testing.assert_close(weights[1], weights[0].flip(0))
    assert not torch.allclose(weights[0], weights[1])


@pytest.mark.parametrize(
    ("height", "width", "size"), [(96, 96, 64), (64, 64, 96), (33, 250, 64), (480, 640, 224), (1, 2, 5)]
)
def test_two_matrices_resize_as_torch_does(height: int, width: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 2, (2, 3, height, width), generator=generator).float() * 255  # the hardest contrasts
    expected = F.interpolate(frames, (size, size), mode="bicubic", antialias=True, align_corners=False)
    found = resize_matrix(height, size) @ frames @ resize_matrix(width, size).T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_an_axis_of_the_wanted_size_stays_as_it_is() -> None:
    assert torch.equal(resize_matrix(64, 64), torch.eye(64))
