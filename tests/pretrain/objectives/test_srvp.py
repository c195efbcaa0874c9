"""SRVP; tests/reference holds its numbers against the published formulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.batches import Prepared
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.objectives.srvp import SRVP, Draws, SRVPConfig, psnr

VIT = ViTConfig(image_size=64, patch_size=16, width=16, depth=1, heads=2)
TOY = SRVPConfig(
    architecture="dcgan", filters=4, code_width=8, state_width=5, noise_width=3, inference_width=8, inference_depth=2,
    residual_width=8, residual_depth=2, euler_steps=1, length=5, observed=2, condition=3,
)  # fmt: skip


def make(**settings: Any) -> SRVP:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(VIT)


def large(model: SRVP) -> SRVP:
    """Draw large weights: with running statistics that have seen nothing, usual ones let little through."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return model


def clips(batch: int = 3, length: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 0.3


def drawn(model: SRVP, frames: torch.Tensor, seed: int = 5) -> Draws:
    return model.draw(frames, torch.Generator().manual_seed(seed))


def engine_of(model: SRVP, **settings: Any) -> Engine:
    config = PretrainConfig("d", Path("o"), image_size=64, objective=model.config, weight_decay=0.0, **settings)
    return Engine(model, config, World(0, 1, torch.device("cpu")), backend="aot_eager")


# -- what is sampled and drawn -----------------------------------------------------------------------------------------


def test_a_sample_is_a_clip() -> None:
    assert (TOY.frames.count, TOY.frames.stride) == (5, 1)
    assert replace(TOY, stride=0.2, stride_unit="seconds").frames.needs_fps


def test_draws_are_those_of_the_generator_and_content_frames_differ() -> None:
    model, frames = make(observed=3, condition=3), clips(batch=200)
    draws, again = drawn(model, frames), drawn(model, frames)
    assert all(torch.equal(one, other) for one, other in zip(draws, again, strict=True))
    assert draws.first_state.shape == (200, 5) and draws.noise.shape == (200, 4, 3)
    assert set(draws.skip_frame.tolist()) == set(range(5))
    assert draws.content_frames.shape == (200, 3)
    assert all(len(set(row)) == 3 for row in draws.content_frames.tolist())
    assert set(draws.content_frames.flatten().tolist()) == set(range(5)), "any frames, not only the first"


def test_content_does_not_know_the_order() -> None:
    model = make()
    codes = torch.randn(3, 2, 8)
    torch.testing.assert_close(model.content(codes), model.content(codes.flip(0)))
    assert not torch.allclose(model.infer_first_state(codes), model.infer_first_state(codes.flip(0)))


def test_the_posterior_of_a_frame_knows_it_and_those_before_only() -> None:
    model, codes = make(), torch.randn(5, 2, 8)
    other = codes.clone()
    other[3] += 1
    changed = (model.infer_noise(codes) - model.infer_noise(other)).abs().amax(dim=(1, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, True], "of the z that lead to frames 1 to 4"


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_weights_of_the_loss() -> None:
    model, frames = make(beta_y=2.0, beta_z=3.0, residual_weight=5.0), clips()
    losses = {name: value.item() for name, value in model(frames, drawn(model, frames)).items()}
    parts = losses["nll"] + 2 * losses["kl_y"] + 3 * losses["kl_z"] + 5 * losses["l2_residual"]
    assert losses["loss"] == pytest.approx(parts) and min(losses.values()) > 0


def test_without_noise_variables_nothing_of_them_is_left() -> None:
    model, frames = make(latent="none"), clips()
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"backbone", "decoder", "w_proj", "w_inf", "q_y", "dynamics"}
    draws = drawn(model, frames)
    losses = model(frames, draws)
    assert set(losses) == {"loss", "nll", "kl_y", "l2_residual"}
    torch.testing.assert_close(losses, model(frames, draws._replace(noise=draws.noise + 1)))
    assert "z_used" not in model.diagnose(frames, draws)


@pytest.mark.parametrize("settings", [{}, {"latent": "none"}, {"skip": False}, {"architecture": "vgg", "channels": 1}])
def test_every_parameter_learns_and_the_loss_falls(settings: dict[str, Any]) -> None:
    model, frames = make(**settings), clips()
    engine, batch = engine_of(model), Prepared(frames, drawn(model, frames))
    model(*batch)["loss"].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    model.zero_grad()
    # A likelihood has a constant that cannot be learned away: what can is the error.
    errors = [engine.step([batch], Pace(3e-3, 0.0))["nll"].item() for _ in range(12)]
    constant = 5 * 3 * 64 * 64 * (torch.tensor(0.71).log().item() + 0.9189385)
    channels = model.config.channels / 3
    assert errors[-1] - constant * channels < 0.9 * (errors[0] - constant * channels)


def test_bfloat16_changes_little() -> None:
    model, frames = make(), clips()
    draws = drawn(model, frames)
    exact = model(frames, draws)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(frames, draws)
    assert all(value.dtype == torch.float32 for value in half.values())
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"latent": "none"}, {"architecture": "vgg", "euler_steps": 2}])
def test_forward_is_one_graph(settings: dict[str, Any]) -> None:
    plain, compiled = make(**settings), make(**settings)
    frames = clips()
    batch = Prepared(frames, drawn(plain, frames))
    one, other = engine_of(plain), engine_of(compiled, compile=True)
    for _ in range(2):
        torch.testing.assert_close(other.step([batch], Pace(1e-3, 0.0)), one.step([batch], Pace(1e-3, 0.0)))
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict())


def test_a_skipped_step_leaves_the_running_statistics_and_a_taken_one_moves_them() -> None:
    model, frames = make(), clips()
    engine, draws = engine_of(model), drawn(model, frames)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine.step([Prepared(frames * torch.nan, draws)], Pace(1e-3, 0.0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.diagnose(frames, draws)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "looking moves nothing"
    engine.step([Prepared(frames, draws)], Pace(1e-3, 0.0))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(moved) == set(before), "statistics, counts and weights"


def test_diagnosis_of_a_model_that_knows_and_one_that_does_not() -> None:
    model, frames = large(make()), clips(batch=6)
    draws = drawn(model, frames)
    found = model.diagnose(frames, draws)
    assert found["kl_z_per_frame"].shape == (4,) and found["residual_size"].item() > 0
    assert 0 < found["psnr"].item() < 40 and model.training
    with torch.no_grad():
        model.q_z.weight.zero_()
    assert model.diagnose(frames, draws)["z_used"].item() == 0
    with torch.no_grad():
        model.q_z.weight.normal_(std=3)
        model.q_z.weight[1].zero_()
    assert 1 <= model.diagnose(frames, draws)["z_used"].item() <= 2, "of three, one says nothing"


def test_psnr_by_hand() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    assert psnr(truth + torch.tensor([0.1, 1.0])[:, None, None, None], truth).tolist() == pytest.approx([20, 0])


# -- prediction --------------------------------------------------------------------------------------------------------


def chances(model: SRVP, batch: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(batch, model.config.state_width, generator=generator)
    return first, torch.randn(batch, frames, model.config.noise_width, generator=generator)


def test_a_prediction_goes_on_where_the_posterior_ends() -> None:
    model, frames = make().eval(), clips()
    pixels, (first, noise) = model.pixels(frames), chances(model, 3, 4)
    whole = model.infer(pixels, Draws(first, noise, torch.full((3,), 2), torch.tensor([[1, 2]] * 3)))
    content, states, _ = model.foresee(pixels[:3], 2, first, noise, 1)
    # The same up to the frames that were seen; then the prior leads from the same state.
    state = whole.trajectory.states[2]
    assert whole.prior is not None
    for t in (2, 3):
        z = model.z_latent.sample(model.prior(state), noise[:, t])
        state = state + model.residual(state, z)
        torch.testing.assert_close(states[t - 2], state)
    wanted = model.decode(content, states, model.encode(pixels[:3], torch.full((3,), 2))[1])
    torch.testing.assert_close(model.predict(pixels[:3], 2, first, noise), wanted)


def test_nothing_of_the_future_is_needed_and_more_frames_go_on_from_fewer() -> None:
    model, (first, noise) = make().eval(), chances(make(), 3, 12)
    seen = model.pixels(clips(length=3))
    long = model.predict(seen, 10, first, noise)
    assert long.shape == (10, 3, 3, 64, 64)
    torch.testing.assert_close(model.predict(seen, 4, first, noise), long[:4])
    other = noise.clone()
    other[:, 5] += 1
    changed = (model.predict(seen, 10, first, other) - long).abs().amax(dim=(1, 2, 3, 4)) > 1e-6
    assert changed.tolist() == [False] * 3 + [True] * 7, "the z of frame 6 changes what comes from there on"


def linear(model: SRVP) -> SRVP:
    """Let the state move by what z says and nothing else, and z not depend on the state."""
    with torch.no_grad():
        for parameter in model.p_z.parameters():
            parameter.zero_()
        lin = model.dynamics.module[0][0]  # type: ignore[index]
        lin.weight[:, : model.config.state_width] = 0
    return model


def test_half_the_step_gives_the_same_whole_frames_and_some_between() -> None:
    model = linear(large(make(residual_depth=1))).eval()
    seen, (first, noise) = model.pixels(clips(length=3)), chances(model, 3, 6)
    _, coarse, _ = model.foresee(seen, 4, first, noise, 1)
    _, fine, _ = model.foresee(seen, 4, first, noise, 2)
    torch.testing.assert_close(fine[1::2], coarse)
    torch.testing.assert_close(fine[2::2], (coarse[:-1] + coarse[1:]) / 2), "halfway between"
    whole, twice = model.predict(seen, 4, first, noise), model.predict(seen, 4, first, noise, euler_steps=2, rate=2)
    assert len(twice) == 8
    torch.testing.assert_close(twice[1::2], whole)
    assert not torch.allclose(twice[2], twice[1]) and not torch.allclose(twice[2], twice[3])


def test_a_model_trained_with_two_steps_shows_those_between_its_frames() -> None:
    model, (first, noise) = make(euler_steps=2).eval(), chances(make(), 3, 6)
    seen = model.pixels(clips(length=3))
    whole, twice = model.predict(seen, 4, first, noise), model.predict(seen, 4, first, noise, rate=2)
    torch.testing.assert_close(twice[1::2], whole)
    with pytest.raises(ValueError, match="3 pictures per frame need Euler steps that are a multiple of it, not 2"):
        model.predict(seen, 4, first, noise, rate=3)
    with pytest.raises(ValueError, match="1 frames were seen; the first state needs 2"):
        model.predict(seen[:1], 4, first, noise)


def test_content_and_skip_connections_are_those_of_the_last_frames_seen() -> None:
    model, (first, noise) = large(make()).eval(), chances(make(), 3, 6)
    seen = model.pixels(clips(length=4))
    codes, skips = model.encode(seen, torch.full((3,), 3))
    content, _, found = model.foresee(seen, 2, first, noise, 1)
    torch.testing.assert_close(content, model.content(codes[-2:]))
    assert skips is not None and found is not None
    torch.testing.assert_close(found, model.backbone.encode(seen[-1]).stages)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_only_pictures_of_64_pixels() -> None:
    with pytest.raises(UserError, match="srvp take pictures of 64 px, not 224; give --image-size 64"):
        TOY.build(ViTConfig(image_size=224, patch_size=16, width=16, depth=1, heads=2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"condition": 5}, "a clip of 5 frames needs observed <= condition < length, not observed 2 and condition 5"),
        ({"observed": 4}, "not observed 4 and condition 3"),
        ({"latent": "normal"}, "unknown latent 'normal'"),
        ({"architecture": "vgg16"}, r"unknown convolutional architecture 'vgg16'; did you mean vgg\?"),
        ({"euler_steps": 0}, "euler_steps must be at least 1, not 0"),
        ({"obs_std": 0.0}, "obs_std must be positive"),
        ({"beta_z": -1.0}, "obs_std must be positive and beta_y, beta_z and residual_weight not negative"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(TOY, **settings)


def test_two_colours_are_for_references_only() -> None:
    with pytest.raises(UserError, match="videos have 3 colours, or 1 that is their mean, not 2"):
        replace(TOY, channels=2).build(VIT)
    assert make(channels=1)(clips(), drawn(make(), clips()))["loss"].isfinite()
