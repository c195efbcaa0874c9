from __future__ import annotations

import pytest
import torch

from rsp_robot.pretrain.masking import normalise_patches, patchify, random_mask, take, unpatchify


def picture(height: int, width: int) -> torch.Tensor:
    """``(1, 3, H, W)`` whose value is channel · 100 + row · 10 + column."""
    channel, row, column = torch.meshgrid(torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    return (100 * channel + 10 * row + column)[None].float()


def test_patches_go_row_by_row_and_pixels_row_column_channel() -> None:
    patches = patchify(picture(4, 6), 2)
    assert patches.shape == (1, 6, 12)
    assert patches[0, 0].tolist() == [0, 100, 200, 1, 101, 201, 10, 110, 210, 11, 111, 211]
    assert patches[0, 1].tolist() == [2, 102, 202, 3, 103, 203, 12, 112, 212, 13, 113, 213]
    assert patches[0, 3].tolist() == [20, 120, 220, 21, 121, 221, 30, 130, 230, 31, 131, 231]


def test_unpatchify_undoes_patchify() -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)


def test_patches_are_normalised_by_the_unbiased_variance() -> None:
    # Mean 2.5, squared deviations 2.25 + 0.25 + 0.25 + 2.25 = 5, divided by 3.
    patches = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]]], dtype=torch.float64)
    root = (5 / 3 + 1e-6) ** 0.5
    expected = [-1.5 / root, -0.5 / root, 0.5 / root, 1.5 / root]
    normalised = normalise_patches(patches)
    assert normalised[0, 0].tolist() == pytest.approx(expected, rel=1e-12)
    assert normalised[0, 1].tolist() == [0.0] * 4, "a flat patch is no division by zero"


def test_mask_of_known_noise() -> None:
    noise = torch.tensor([[0.3, 0.1, 0.9, 0.5], [0.8, 0.6, 0.4, 0.2]])
    mask = random_mask(noise, 0.5)
    assert mask.keep.tolist() == [[1, 0], [3, 2]]
    assert mask.restore.tolist() == [[1, 0, 3, 2], [3, 2, 1, 0]]
    assert mask.hidden.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(("patches", "ratio", "kept"), [(16, 0.75, 4), (196, 0.75, 49), (5, 0.5, 2), (9, 0.9, 0)])
def test_how_many_patches_stay(patches: int, ratio: float, kept: int) -> None:
    mask = random_mask(torch.rand(3, patches, generator=torch.Generator().manual_seed(0)), ratio)
    assert mask.keep.shape == (3, kept)
    assert mask.hidden.sum(dim=1).tolist() == [patches - kept] * 3
    assert mask.hidden.gather(1, mask.keep).sum() == 0


def test_restore_puts_the_kept_tokens_back_in_their_places() -> None:
    tokens = torch.arange(2 * 6 * 3).reshape(2, 6, 3).float()
    mask = random_mask(torch.rand(2, 6, generator=torch.Generator().manual_seed(0)), 0.5)
    filled = torch.cat([take(tokens, mask.keep), torch.full((2, 3, 3), -1.0)], dim=1)
    restored = take(filled, mask.restore)
    hidden = mask.hidden.bool()
    assert torch.equal(restored[~hidden], tokens[~hidden])
    assert (restored[hidden] == -1).all()


def test_take_picks_each_sample_its_own_tokens() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    assert take(tokens, torch.tensor([[1], [0]])).tolist() == [[[3.0, 4.0]], [[5.0, 6.0]]]
