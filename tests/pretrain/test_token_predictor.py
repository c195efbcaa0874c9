"""The predictor of later tokens: what reaches a prediction, and what a latent's size means."""

from __future__ import annotations

import torch

from rsp_robot.backbones.vit import ViTConfig, initialise_transformer
from rsp_robot.pretrain.token_predictor import PictureDecoder, TokenPredictor

VIT = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)


def make(latent: int = 3) -> TokenPredictor:
    torch.manual_seed(0)
    predictor = TokenPredictor(VIT, past=2, future=3, latent=latent, width=8, depth=1, heads=2)
    initialise_transformer(predictor)
    return predictor


def past(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 2, 5, 16, generator=torch.Generator().manual_seed(0))


def test_it_predicts_every_token_of_every_future_frame() -> None:
    predictor = make()
    predicted = predictor(predictor.remember(past()), torch.eye(3)[:2])
    assert predicted.shape == (2, 3, 5, 16)
    flat = predicted.flatten(1, 2)
    assert torch.pdist(flat[0]).min() > 1e-4, "each place and each time has a prediction of its own"


def test_past_frames_are_told_apart_by_their_time() -> None:
    predictor, frames = make(), past()
    there, back = (predictor(predictor.remember(seen), None) for seen in (frames, frames.flip(1)))
    assert not torch.allclose(there, back, atol=1e-4)


def test_the_size_of_a_latent_counts_and_the_length_of_its_directions_does_not() -> None:
    predictor, memory = make(), make().remember(past())
    with torch.no_grad():
        nothing, small, large = (predictor(memory, size * torch.ones(2, 3)) for size in (0.0, 0.01, 1.0))
        torch.testing.assert_close(nothing, predictor(memory, None))
        assert (small - nothing).norm() < 0.1 * (large - nothing).norm()
        predictor.directions.mul_(100.0)  # type: ignore[union-attr]
        torch.testing.assert_close(predictor(memory, torch.ones(2, 3)), large)


def test_without_a_latent_there_are_no_directions() -> None:
    assert make(latent=0).directions is None
    assert "directions" not in make(latent=0).state_dict()


def test_the_decoder_gives_the_patches_of_one_frame() -> None:
    decoder = PictureDecoder(VIT, width=8, depth=1, heads=2)
    assert decoder(past()[:, 0]).shape == (2, 4, 8 * 8 * 3)
