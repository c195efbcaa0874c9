"""ToBo: nothing but one token may tell the decoder of the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from rsp_robot.backbones.cross_attention import CrossSelfBlock
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.pretrain.masking import patchify
from rsp_robot.pretrain.objectives.decoders import MaskDraws
from rsp_robot.pretrain.objectives.token_bottleneck import ToBoConfig, TokenBottleneck

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
TOY = ToBoConfig(decoder_width=16, decoder_depth=2, decoder_heads=2)
WHOLE = 17


def make(**settings: Any) -> TokenBottleneck:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(VIT)


def pairs(source: int = 0, target: int = 1) -> torch.Tensor:
    frames = [torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (source, target)]
    return torch.stack(frames, dim=1)


def drawn(model: TokenBottleneck, seed: int = 5) -> MaskDraws:
    found: MaskDraws = model.draw(pairs(), torch.Generator().manual_seed(seed))
    return found


def losses_with(change: Callable[[torch.Tensor], torch.Tensor], **settings: Any) -> dict[str, float]:
    """Losses where the tokens of the source, and of nothing else, are changed on their way out of the encoder."""
    model = make(**settings)

    def hook(module: Any, inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        return change(tokens.clone()) if tokens.shape[1] == WHOLE else tokens

    model.backbone.norm.register_forward_hook(hook)
    return {name: value.item() for name, value in model(pairs(), drawn(model)).items()}


def other_patches(tokens: torch.Tensor) -> torch.Tensor:
    tokens[:, 1:] = torch.randn(tokens[:, 1:].shape, generator=torch.Generator().manual_seed(9))
    return tokens


def other_class_token(tokens: torch.Tensor) -> torch.Tensor:
    tokens[:, :1] = torch.randn(tokens[:, :1].shape, generator=torch.Generator().manual_seed(9))
    return tokens


# -- the bottleneck ----------------------------------------------------------------------------------------------------


def test_the_source_reaches_the_decoder_through_its_class_token_alone() -> None:
    as_it_is = losses_with(lambda tokens: tokens)
    patches, token = losses_with(other_patches), losses_with(other_class_token)
    assert patches["loss_bottleneck"] == as_it_is["loss_bottleneck"]
    assert patches["loss_siam"] != as_it_is["loss_siam"], "the auxiliary decoder does see them"
    assert abs(token["loss_bottleneck"] - as_it_is["loss_bottleneck"]) > 1e-4
    assert losses_with(other_patches, siam_weight=0.0)["loss"] == losses_with(lambda t: t, siam_weight=0.0)["loss"]


def test_the_decoder_sees_as_many_tokens_as_the_target_has_and_one() -> None:
    model, seen = make(siam_weight=0.0), []
    for block in model.decoder_blocks:
        block.register_forward_pre_hook(lambda module, inputs: seen.append((tuple(inputs[0].shape), inputs[1])))
    model(pairs(), drawn(model))
    assert seen == [((3, 17, 16), None)] * 2, "one token of the source, 16 places of the target, no memory"


def test_the_class_token_of_the_target_is_left_out() -> None:
    model = make()
    draws = drawn(model)
    token, target = model.embed_source(pairs()[:, 0])[:, :1], model.embed_target(pairs()[:, 1], draws)
    changed = target.clone()
    changed[:, 0] += 1.0
    assert torch.equal(model.predict(token, target), model.predict(token, changed))
    assert not torch.equal(model.predict(token, target), model.predict(token + torch.randn(16), target))


def test_a_block_without_memory_is_self_attention_and_mlp() -> None:
    torch.manual_seed(0)
    block, tokens = CrossSelfBlock(16, 2), torch.randn(2, 5, 16)
    expected = tokens + block.attn(block.norm3(tokens))
    expected = expected + block.mlp2(block.norm4(expected))
    torch.testing.assert_close(block(tokens, None), expected)


# -- the losses --------------------------------------------------------------------------------------------------------


def test_losses_are_weighted_and_over_hidden_patches_of_the_target() -> None:
    model = make(siam_weight=0.5, normalise_targets=False)
    draws = drawn(model)
    losses = model(pairs(), draws)
    assert set(losses) == {"loss", "loss_bottleneck", "loss_siam"}
    torch.testing.assert_close(losses["loss"], losses["loss_bottleneck"] + 0.5 * losses["loss_siam"])
    torch.nn.init.zeros_(model.decoder_pred.weight)
    mask = model.mask(draws)
    assert mask.hidden.sum(dim=1).tolist() == [15, 15, 15], "a tenth of 16 patches is seen"
    expected = patchify(pairs()[:, 1], 4)[mask.hidden.bool()].square().mean().item()
    found = model(pairs(source=8), draws)
    assert [found[name].item() for name in ("loss_bottleneck", "loss_siam")] == pytest.approx([expected] * 2, rel=1e-5)


def test_both_losses_share_the_blocks() -> None:
    model = make()
    moved = []
    for name in ("loss_bottleneck", "loss_siam"):
        model.zero_grad()
        model(pairs(), drawn(model))[name].backward()
        moved.append({name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()})
    cross = {name for name in moved[1] if any(part in name for part in (".cattn.", "s.0.norm1", "s.1.norm1", "norm_kv"))
             and name.startswith("decoder_blocks")}  # fmt: skip
    assert moved[1] - moved[0] == cross and len(cross) == 2 * 10
    assert moved[0] < moved[1]


def test_without_the_auxiliary_loss_cross_attention_rests() -> None:
    model, whole = make(siam_weight=0.0), make()
    losses = model(pairs(), drawn(model))
    assert set(losses) == {"loss", "loss_bottleneck"}
    assert losses["loss"] == whole(pairs(), drawn(whole))["loss_bottleneck"]
    assert list(model.state_dict()) == list(whole.state_dict()), "the layout stays"
    resting = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad and "pos" not in name}
    assert resting == {"norm1", "norm_kv1", "cattn"}


def test_names_of_the_published_checkpoint() -> None:
    names = {name.partition(".")[0] for name in make().state_dict()}
    assert names == {
        "backbone", "decoder_embed_mae", "mask_token", "decoder_pos_embed", "decoder_blocks", "decoder_norm",
        "decoder_pred",
    }  # fmt: skip


def test_diagnosis_gives_every_sample_the_token_of_its_neighbour() -> None:
    model = make(siam_weight=0.0)
    draws, frames = drawn(model), pairs()
    exchanged = torch.stack([frames[[2, 0, 1], 0], frames[:, 1]], dim=1)
    right, wrong = model(frames, draws)["loss"], model(exchanged, draws)["loss"]
    found = model.diagnose(frames, draws)
    assert found["loss_other_token"].item() == pytest.approx(wrong.item(), rel=1e-5)
    assert found["token_gap"].item() == pytest.approx((wrong - right).item(), abs=1e-6)
