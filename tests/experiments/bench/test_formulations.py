"""The other formulations compute the same loss, and really do compute it in another way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.experiments.bench.formulations import FULL, LABELS, PLAIN, Formulation, build, formulations
from rsp_robot.pretrain.objectives.rsp import RSP, Draws, RSPConfig

VIT = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
CPU = torch.device("cpu")
FAST = Formulation(False, False, True, True, True, True)
ROWS = formulations(FAST)


def settings(**changed: Any) -> RSPConfig:
    # Without free bits, whose floor would hide the KL at random weights.
    return RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, free_bits=0.0, **changed)


def frames() -> torch.Tensor:
    return torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def fast(config: RSPConfig) -> tuple[RSP, Draws]:
    torch.manual_seed(0)
    model = build(FAST, VIT, config, CPU)
    return model, model.draw(frames(), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [name for name in ROWS if name != FULL])
@pytest.mark.parametrize(
    "config",
    [settings(), settings(latent="gaussian"), settings(latent="deterministic"), settings(mae_weight=0.0)],
    ids=["categorical", "gaussian", "deterministic", "no mae"],
)
def test_same_losses_and_gradients(name: str, config: RSPConfig) -> None:
    model, draws = fast(config)
    other = build(ROWS[name], VIT, config, CPU, model.state_dict())
    expected, found = model(frames(), draws), other(frames(), draws)
    assert {key: found[key].item() for key in expected} == pytest.approx(
        {key: value.item() for key, value in expected.items()}, rel=1e-5
    )
    expected["loss"].backward()
    found["loss"].backward()
    gradients = dict(other.named_parameters())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=key)


def calls(formulation: Formulation, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a forward pass goes through the encoder, the decoder, and the fused attention."""
    model, counted = build(formulation, VIT, settings(), CPU), Counter[str]()
    model.backbone.blocks[0].register_forward_hook(lambda *_: counted.update(["encoder"]))
    model.decoder_blocks[0].register_forward_hook(lambda *_: counted.update(["decoder"]))
    attention = F.scaled_dot_product_attention

    def attend(*arguments: Any, **named: Any) -> torch.Tensor:
        counted["attention"] += 1
        return attention(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attend)
        model(frames(), model.draw(frames()))
    return counted


def test_every_switch_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {name: calls(formulation, monkeypatch) for name, formulation in ROWS.items()}
    # Two decoder passes with a cross- and a self-attention each, and one attention per encoder pass.
    assert counted[FULL] == {"encoder": 2, "decoder": 2, "attention": 6}
    assert counted["a pass for each frame"] == {"encoder": 3, "decoder": 2, "attention": 7}
    assert counted["prior decoded every step"] == {"encoder": 2, "decoder": 3, "attention": 8}
    assert counted["attention written out"] == {"encoder": 2, "decoder": 2}
    assert counted[PLAIN] == {"encoder": 3, "decoder": 3}


def test_the_prior_is_decoded_from_its_own_sample() -> None:
    model, draws = fast(settings())
    with torch.no_grad():  # logits far from uniform: the prior's sample is another one than the posterior's
        model.to_prior[2].bias.copy_(20 * torch.randn(12, generator=torch.Generator().manual_seed(3)))
        model.decoder_embed_stoch.weight.mul_(20)
    plain = build(Formulation(), VIT, settings(), CPU, model.state_dict())
    losses = plain(frames(), draws)
    assert not losses["loss_future_prior"].requires_grad
    expected = model.diagnose(frames(), draws)
    torch.testing.assert_close(losses["loss_future_prior"], expected["loss_future_prior"])
    assert abs(expected["prior_gap"]) > 1e-3


def test_rows_turn_over_one_switch_each() -> None:
    full = Formulation(False, True, True, True, True, True)
    rows = formulations(full)
    assert list(rows) == [
        "full setting",
        "torch.compile on",
        "bf16 off: fp32",
        "attention written out",
        "a pass for each frame",
        "prior decoded every step",
        "AdamW not fused",
        "plain formulation",
    ]
    turned = [[name for name in LABELS if getattr(row, name) != getattr(full, name)] for row in rows.values()]
    assert turned == [[], *([name] for name in LABELS), [name for name in LABELS if name != "compile"]]
    assert rows[PLAIN] == Formulation() and rows[PLAIN].precision == "fp32" and rows[FULL].precision == "bf16"
