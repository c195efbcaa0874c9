from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.pretrain.masking import patchify
from rsp_robot.pretrain.objectives.decoders import MaskDraws
from rsp_robot.pretrain.objectives.siam_mae import SiamMAE, SiamMAEConfig

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
TOY = SiamMAEConfig(decoder_width=16, decoder_depth=2, decoder_heads=2, mask_ratio=0.9)


def make(**settings: Any) -> SiamMAE:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(VIT)


def pairs(past: int = 0, future: int = 1) -> torch.Tensor:
    frames = [torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (past, future)]
    return torch.stack(frames, dim=1)


def drawn(model: SiamMAE, seed: int = 5) -> MaskDraws:
    found: MaskDraws = model.draw(pairs(), torch.Generator().manual_seed(seed))
    return found


def test_the_past_is_seen_whole() -> None:
    """Every single patch of it changes what is predicted of the future."""
    model = make()
    draws, future = drawn(model), pairs()[:, 1]
    before = model.predict(model.remember(pairs()[:, 0]), future, draws)
    assert before.shape == (3, 16, 48)
    for patch in range(16):
        row, column = 4 * (patch // 4), 4 * (patch % 4)
        past = pairs()[:, 0]
        past[0, :, row : row + 4, column : column + 4] += 1.0
        after = model.predict(model.remember(past), future, draws)
        assert not torch.allclose(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_the_loss_covers_hidden_patches_of_the_future_only() -> None:
    model = make(normalise_targets=False)
    torch.nn.init.zeros_(model.decoder_pred.weight)
    draws = drawn(model)
    mask = model.mask(draws)
    assert mask.hidden.sum(dim=1).tolist() == [15, 15, 15]
    expected = patchify(pairs()[:, 1], 4)[mask.hidden.bool()].square().mean()
    assert model(pairs(), draws)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert model(pairs(past=7), draws)["loss"] == model(pairs(), draws)["loss"], "the past is no target"


def test_both_frames_go_through_one_encoder() -> None:
    model = make()
    assert sum("patch_embed" in name for name, _ in model.named_parameters()) == 2
    seen = []
    model.backbone.norm.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model(pairs(), drawn(model))
    assert seen == [(3, 17, 16), (3, 2, 16)], "the past whole, of the future one patch"


def test_the_decoder_predicts_what_its_pieces_give() -> None:
    """Cross-attention to the past, self-attention, MLP, block after block, written out."""
    model = make()
    draws, (past, future) = drawn(model), pairs().unbind(1)
    mask = model.mask(draws)
    memory = model.decoder_embed(model.backbone(past)) + model.decoder_pos_embed
    tokens = model.in_place(model.decoder_embed(model.visible(future, mask)), mask)
    for block in model.decoder_blocks:
        tokens = tokens + block.cattn(block.norm1(tokens), block.norm_kv1(memory))
        tokens = tokens + block.attn(block.norm3(tokens))
        tokens = tokens + block.mlp2(block.norm4(tokens))
    expected = model.decoder_pred(model.decoder_norm(tokens))[:, 1:]
    torch.testing.assert_close(model.predict(model.remember(past), future, draws), expected)


def test_diagnosis_gives_every_sample_the_past_of_its_neighbour() -> None:
    model = make()
    draws, frames = drawn(model), pairs()
    exchanged = torch.stack([frames[[2, 0, 1], 0], frames[:, 1]], dim=1)
    right, wrong = model(frames, draws)["loss"], model(exchanged, draws)["loss"]
    found = model.diagnose(frames, draws)
    assert found["loss_other_past"].item() == pytest.approx(wrong.item(), rel=1e-5)
    assert found["past_gap"].item() == pytest.approx((wrong - right).item(), abs=1e-6)
    assert not any(value.requires_grad for value in found.values())
