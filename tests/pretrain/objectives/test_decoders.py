"""What MAE, SiamMAE, ToBo and CroBo share: settings, tokens put into their places, the error over hidden patches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rsp_robot.backbones.cross_attention import CrossSelfBlock, use_fused_attention
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.masking import random_mask
from rsp_robot.pretrain.objectives.crop_bottleneck import CroBoConfig
from rsp_robot.pretrain.objectives.decoders import MaskedConfig, MaskedObjective, masked_error
from rsp_robot.pretrain.objectives.mae import MAEConfig
from rsp_robot.pretrain.objectives.siam_mae import SiamMAEConfig
from rsp_robot.pretrain.objectives.token_bottleneck import ToBoConfig
from rsp_robot.pretrain.sampling import CropPairSpec, FrameSpec, PairSpec

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
SMALL: dict[str, Any] = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2, "mask_ratio": 0.75}
CONFIGS = (MAEConfig(), SiamMAEConfig(), ToBoConfig(), CroBoConfig(), ToBoConfig(siam_weight=0.0))
each_config = pytest.mark.parametrize("config", CONFIGS, ids=["mae", "siam-mae", "tobo", "crobo", "tobo-alone"])


def make(config: MaskedConfig) -> tuple[Any, torch.Tensor, Any]:
    """A small model, frames and draws."""
    torch.manual_seed(0)
    model = replace(config, **SMALL).build(VIT)
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(3, config.frames.count, 3, 16, 16, generator=generator)
    return model, frames, model.draw(frames, generator)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_defaults_are_the_published_settings() -> None:
    sizes = {
        "mae": (0.75, 512, 8, 16), "siam-mae": (0.95, 256, 4, 8), "tobo": (0.9, 512, 8, 16), "crobo": (0.9, 512, 8, 16),
    }  # fmt: skip
    for config in CONFIGS:
        found = (config.mask_ratio, config.decoder_width, config.decoder_depth, config.decoder_heads)
        assert found == sizes[config.name] and config.normalise_targets
    assert [config.frames for config in CONFIGS[:4]] == [
        FrameSpec(), PairSpec(4, 48), PairSpec(4, 96), CropPairSpec(0.3, 0.6),
    ]  # fmt: skip
    assert (ToBoConfig().siam_weight, CroBoConfig().siam_weight) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("make_config", "settings", "said"),
    [
        (SiamMAEConfig, {"mask_ratio": 1.0}, "mask ratio 1.0 must lie in (0, 1); 0.95 is published"),
        (MAEConfig, {"mask_ratio": 0.0}, "mask ratio 0.0 must lie in (0, 1); 0.75 is published"),
        (ToBoConfig, {"decoder_depth": 0}, "decoder_depth must be at least 1, not 0"),
        (MAEConfig, {"decoder_heads": 7}, "decoder width 512 must be divisible by 4 and by its 7 heads; change one"),
        (SiamMAEConfig, {"min_gap": 90}, "gap range 90..48 is empty"),
        (ToBoConfig, {"siam_weight": -1.0}, "siam_weight must be at least 0, not -1.0"),
        (CroBoConfig, {"min_local": 0.7}, "crops of 0.7 to 0.6 inside another; need 0 < smallest <= largest <= 1"),
        (CroBoConfig, {"max_local": 1.1}, "crops of 0.3 to 1.1 inside another"),
    ],
)
def test_settings_that_make_no_sense(make_config: type[MaskedConfig], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make_config(**settings)
    assert said in str(error.value) and "\n" not in str(error.value)


# -- the pieces --------------------------------------------------------------------------------------------------------


def test_tokens_go_to_their_places_among_mask_tokens() -> None:
    model = MaskedObjective(VIT, MAEConfig(**SMALL))
    model.add_decoder(CrossSelfBlock)
    torch.nn.init.constant_(model.mask_token, -1.0)
    mask = random_mask(torch.tensor([[0.3, 0.1, 0.9, 0.5]]), 0.5)  # patch 1 first, then patch 0
    tokens = torch.tensor([[[7.0], [11.0], [10.0]]]).expand(1, 3, 16)
    model.decoder_pos_embed.data = torch.arange(5.0).mul(100)[None, :, None].expand(1, 5, 16)
    found = model.in_place(tokens, mask)
    assert found.shape == (1, 5, 16)
    assert found[0, :, 0].tolist() == [7, 110, 211, 299, 399], "class token, patch 0, patch 1, two mask tokens"


def test_the_error_counts_hidden_patches_only() -> None:
    mask = random_mask(torch.tensor([[0.1, 0.9, 0.2, 0.8]]), 0.5)
    target = torch.tensor([[[5.0, 5.0], [1.0, 3.0], [9.0, 9.0], [2.0, 0.0]]])
    predicted = torch.zeros_like(target)
    assert masked_error(predicted, target, mask).item() == pytest.approx((1 + 9 + 4 + 0) / 4)
    changed = target.clone()
    changed[0, [0, 2]] += 100.0
    assert masked_error(predicted, changed, mask) == masked_error(predicted, target, mask), "visible ones do not count"
    changed = target.clone()
    changed[0, 3, 1] = 4.0
    assert masked_error(predicted, changed, mask).item() == pytest.approx((1 + 9 + 4 + 16) / 4)


@pytest.mark.parametrize(
    ("config", "kept"), list(zip(CONFIGS[:3], (49, 9, 19), strict=True)), ids=["mae", "siam", "to"]
)
def test_how_many_of_196_patches_are_seen(config: MaskedConfig, kept: int) -> None:
    mask = random_mask(torch.rand(2, 196, generator=torch.Generator().manual_seed(0)), config.mask_ratio)
    assert mask.keep.shape == (2, kept) and mask.hidden.sum(dim=1).tolist() == [196 - kept] * 2


# -- all four ----------------------------------------------------------------------------------------------------------


@each_config
def test_every_parameter_that_trains_moves_the_loss(config: MaskedConfig) -> None:
    """Several processes wait for each other's gradients: one that never comes would make them wait for ever."""
    model, frames, draws = make(config)
    model(frames, draws)["loss"].backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []


@each_config
def test_a_decoder_that_predicts_zero_errs_by_the_variance_of_a_patch(config: MaskedConfig) -> None:
    model, frames, draws = make(config)
    torch.nn.init.zeros_(model.decoder_pred.weight)
    losses = model(frames, draws)
    parts = [value for name, value in losses.items() if name != "loss"] or [losses["loss"]]
    assert [part.item() for part in parts] == pytest.approx([47 / 48] * len(parts), rel=1e-4)  # unbiased: (P - 1) / P


@each_config
def test_samples_of_a_batch_do_not_see_each_other(config: MaskedConfig) -> None:
    model, frames, draws = make(config)
    alone = [model(frames[i : i + 1], type(draws)(draws.mask[i : i + 1]))["loss"].item() for i in range(3)]
    assert model(frames, draws)["loss"].item() == pytest.approx(sum(alone) / 3, rel=1e-5)


@each_config
def test_the_generator_decides_the_mask(config: MaskedConfig) -> None:
    model, frames, _ = make(config)
    first, again, other = (model.draw(frames, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.mask, again.mask) and not torch.equal(first.mask, other.mask)
    assert first.mask.shape == (3, 16) and not torch.equal(first.mask[0], first.mask[1])
    assert model(frames, first)["loss"] == model(frames, again)["loss"] != model(frames, other)["loss"]


@each_config
def test_what_the_hidden_patches_show_reaches_nothing_but_the_target(config: MaskedConfig) -> None:
    model, frames, draws = make(config)
    predictions = []
    decode = model.decode
    model.decode = lambda *tokens: predictions.append(decode(*tokens)) or predictions[-1]
    losses = [model(frames, draws)["loss"]]
    hidden = model.mask(draws).hidden.bool().view(3, 1, 4, 1, 4, 1).expand(3, 3, 4, 4, 4, 4).reshape(3, 3, 16, 16)
    changed = frames.clone()
    changed[:, -1][hidden] = torch.randn(int(hidden.sum()), generator=torch.Generator().manual_seed(3))
    losses.append(model(changed, draws)["loss"])
    passes = len(predictions) // 2
    assert all(torch.equal(*pair) for pair in zip(predictions[:passes], predictions[passes:], strict=True))
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("config", "forward", "both"),
    [(CONFIGS[0], 13.0, 38.9), (CONFIGS[1], 11.8, 35.3), (CONFIGS[2], 35.6, 106.6), (CONFIGS[3], 21.0, 62.7)],
    ids=["mae", "siam-mae", "tobo", "crobo"],
)
def test_arithmetic_of_one_sample_at_published_size(config: MaskedConfig, forward: float, both: float) -> None:
    """In GFLOP, a multiplication and an addition being two: of the losses, and of losses and gradients."""
    with torch.device("meta"):
        model = config.build(ViTConfig())
        frames = torch.empty(1, config.frames.count, 3, 224, 224)
        draws = model.draw(frames)
    use_fused_attention(model, False)
    with FlopCounterMode(display=False) as counter:
        loss = model(frames, draws)["loss"]
        found = [counter.get_total_flops() / 1e9]
        loss.backward()
    found.append(counter.get_total_flops() / 1e9)
    assert found == pytest.approx([forward, both], abs=0.06)
