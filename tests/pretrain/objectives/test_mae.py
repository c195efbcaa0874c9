from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.masking import patchify
from rsp_robot.pretrain.objectives.decoders import MaskDraws
from rsp_robot.pretrain.objectives.mae import MAE, MAEConfig

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
TOY = MAEConfig(decoder_width=16, decoder_depth=2, decoder_heads=2)


def make(**settings: Any) -> MAE:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(VIT)


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def drawn(model: MAE, seed: int = 5) -> MaskDraws:
    found: MaskDraws = model.draw(images(), torch.Generator().manual_seed(seed))
    return found


def test_names_of_the_published_checkpoint() -> None:
    """Those of He et al., the encoder's below ``backbone.``."""
    names = {name for name in make().state_dict() if not name.startswith("backbone.")}
    block = [f"{part}.{kind}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
             for kind in ("weight", "bias")]  # fmt: skip
    assert names == {
        "mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias", "decoder_norm.weight",
        "decoder_norm.bias", "decoder_pred.weight", "decoder_pred.bias",
        *(f"decoder_blocks.{i}.{name}" for i in (0, 1) for name in block),
    }  # fmt: skip


def test_the_loss_is_the_error_over_hidden_patches() -> None:
    model = make(normalise_targets=False)
    torch.nn.init.zeros_(model.decoder_pred.weight)
    draws = drawn(model)
    hidden = model.mask(draws).hidden.bool()
    assert hidden.sum(dim=1).tolist() == [12, 12]
    expected = patchify(images()[:, 0], 4)[hidden].square().mean()
    assert model(images(), draws)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_visible_patch_changes_the_prediction_everywhere_and_counts_nowhere() -> None:
    model = make(normalise_targets=False)
    draws = drawn(model)
    first = int(model.mask(draws).keep[0, 0])
    row, column = 4 * (first // 4), 4 * (first % 4)
    changed = images()
    changed[0, 0, :, row : row + 4, column : column + 4] += 1.0
    before, after = model.predict(images()[:, 0], draws), model.predict(changed[:, 0], draws)
    assert ((before - after)[0].abs().amax(dim=1) > 0).all() and torch.equal(before[1], after[1])
    torch.nn.init.zeros_(model.decoder_pred.weight)  # then only targets tell the pictures apart
    assert model(images(), draws)["loss"] == model(changed, draws)["loss"]


def test_a_mask_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="mask ratio 0.95 of 16 patches leaves none visible; lower"):
        make(mask_ratio=0.95)
    assert int(make(mask_ratio=0.9).mask(drawn(make())).hidden.sum()) == 2 * 15
