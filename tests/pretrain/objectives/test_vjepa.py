"""The V-JEPA objective; tests/reference holds its numbers against the published formulation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.pretrain.checkpoints import load_newest, load_objective
from rsp_robot.pretrain.config import PretrainConfig, read_config
from rsp_robot.pretrain.masking import take
from rsp_robot.pretrain.objectives.vjepa import Draws, VideoJEPA, VideoJEPAConfig, variance_hinge
from rsp_robot.pretrain.sampling import ClipSpec
from rsp_robot.pretrain.train import pretrain

VIT = ViTConfig(image_size=16, patch_size=4, width=24, depth=2, heads=2)
TOY = VideoJEPAConfig(length=4, stride=1, predictor_width=16, predictor_depth=1)
CPU = torch.device("cpu")


def make(vit: ViTConfig = VIT, **settings: Any) -> VideoJEPA:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(vit)


def clips(batch: int = 3, length: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def drawn(model: VideoJEPA, frames: torch.Tensor | None = None, seed: int = 5) -> Draws:
    return model.draw(clips() if frames is None else frames, torch.Generator().manual_seed(seed))


# -- the published objective -------------------------------------------------------------------------------------------


def test_defaults_are_the_published_settings() -> None:
    published = VideoJEPAConfig(
        length=16, stride=4, stride_unit="frames", tubelet=2, blocks=(8, 2), block_scales=(0.15, 0.7), min_aspect=0.75,
        max_aspect=1.5, predictor_width=384, predictor_depth=12, uniform_positions=True, momentum=0.998,
        final_momentum=1.0, loss_exponent=1.0, variance_weight=0.0,
    )  # fmt: skip
    assert VideoJEPAConfig() == published
    assert published.frames == ClipSpec(16, 4) and published.frames.shortest(10) == 61


def test_names_of_the_published_checkpoint() -> None:
    names = {".".join(name.split(".")[:2]) for name in make().state_dict()}
    encoder = {"pos_embed", "patch_embed", "blocks", "norm"}
    predictor = {f"predictor_{part}" for part in ("pos_embed", "embed", "blocks", "norm", "proj")} | {"mask_tokens"}
    assert names == (
        {f"{part}.{name}" for part in ("context_encoder", "backbone") for name in encoder}
        | {f"predictor.{name}" for name in predictor}
    )


def test_the_loss_by_hand() -> None:
    """A predictor whose last map is zero tells zero: the loss is the mean size of the targets."""
    for power in (1.0, 2.0):
        model = make(loss_exponent=power)
        torch.nn.init.zeros_(model.predictor.predictor_proj.weight)
        draws, whole = drawn(model), model.backbone.clip(clips().transpose(1, 2))
        normalised = (whole - whole.mean(-1, keepdim=True)) / (
            whole.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        asked = [take(normalised, hidden).abs().pow(power).mean() / power for hidden in draws.target]
        losses = model(clips(), draws)
        assert set(losses) == {"loss"} and losses["loss"].shape == ()
        torch.testing.assert_close(losses["loss"].detach(), (asked[0] + asked[1]) / 2)


def test_the_variance_term_by_hand() -> None:
    spread = torch.tensor([[[0.0, 0.0], [1.0, 4.0]]])  # standard deviations over two tokens 0.7071 and 2.8284
    even = torch.zeros(1, 3, 2)  # none: 0.01 is what the term makes of it
    expected = (1 - np.sqrt(0.5 + 1e-4)) / 2
    assert variance_hinge([spread]).item() == pytest.approx(expected, rel=1e-6)
    both = (max(0, 1 - (np.sqrt(0.5 + 1e-4) + 0.01) / 2) + max(0, 1 - (np.sqrt(8 + 1e-4) + 0.01) / 2)) / 2
    assert variance_hinge([spread, even]).item() == pytest.approx(both, rel=1e-6)
    model, without = make(variance_weight=0.5), make()
    losses = model(clips(), drawn(model))
    torch.testing.assert_close(losses["loss"], without(clips(), drawn(model))["loss"] + 0.5 * losses["loss_variance"])


def test_the_context_knows_nothing_of_what_is_hidden() -> None:
    model = make()
    draws = drawn(model, clips(1))
    changed = clips(1)
    for place in draws.target[0][0].tolist():  # another picture in all hidden tubelets of the first mask
        time, row, column = place // 16, place % 16 // 4, place % 4
        changed[0, 2 * time : 2 * time + 2, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 7
    seen, others = (model.contexts(frames.transpose(1, 2), draws)[0] for frames in (clips(1), changed))
    assert torch.equal(seen, others)
    features = [model.features(frames.transpose(1, 2)) for frames in (clips(1), changed)]
    assert not torch.allclose(*features, atol=0.1), "but the target sees the whole clip"


def test_the_context_is_encoded_at_its_own_places() -> None:
    model = make()
    tokens = model.context_encoder.embed(clips().transpose(1, 2))
    everything = torch.arange(32).expand(3, -1)
    torch.testing.assert_close(
        model.context_encoder.encode(tokens, everything), model.context_encoder.clip(clips().transpose(1, 2))
    )
    shuffled = everything.flip(1)
    torch.testing.assert_close(
        model.context_encoder.encode(tokens, shuffled).flip(1), model.context_encoder.encode(tokens), atol=1e-5, rtol=0
    )


def test_predictions_depend_on_the_place_and_on_the_type_of_mask() -> None:
    model = make()
    features, context = torch.randn(1, 5, 24), torch.arange(5)[None]
    told = [
        model.predictor(features, context, torch.tensor([target]), mask_type)
        for target, mask_type in (([8, 9], 0), ([9, 8], 0), ([8, 9], 1))
    ]
    assert told[0].shape == (1, 2, 24)
    torch.testing.assert_close(told[0], told[1].flip(1))
    assert not torch.allclose(told[0][:, 0], told[0][:, 1], atol=1e-5)
    assert torch.equal(told[0], told[2]), "mask tokens begin at zero"
    torch.nn.init.normal_(model.predictor.mask_tokens[1])
    assert not torch.allclose(told[0], model.predictor(features, context, torch.tensor([[8, 9]]), 1))


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_the_generator_decides_the_masks() -> None:
    model = make()
    torch.manual_seed(1)
    first = drawn(model)
    torch.manual_seed(2)
    again, other = drawn(model), drawn(model, seed=6)
    flat = [[*draws.context, *draws.target] for draws in (first, again, other)]
    assert all(torch.equal(one, same) for one, same in zip(flat[0], flat[1], strict=True))
    assert any(one.shape != two.shape or not torch.equal(one, two) for one, two in zip(flat[0], flat[2], strict=True))
    assert len(first.context) == len(first.target) == 2 and len(model.draw(clips()).context) == 2


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    model = make(variance_weight=1.0)
    draws = drawn(model)
    together = model(clips(), draws)
    alone = [
        model(clips()[i : i + 1], Draws(*(tuple(part[i : i + 1] for part in parts) for parts in draws)))
        for i in range(3)
    ]
    mean = np.mean([(losses["loss"] - losses["loss_variance"]).item() for losses in alone])
    assert (together["loss"] - together["loss_variance"]).item() == pytest.approx(mean, rel=1e-5)


# -- who learns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"variance_weight": 0.1}, {"blocks": (1,), "block_scales": (0.5,)}])
def test_every_parameter_that_learns_moves_the_loss_and_no_other(settings: dict[str, Any]) -> None:
    model = make(**settings)
    model(clips(), drawn(model))["loss"].backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert moved == learned
    resting = {name for name in dict(model.named_parameters()) if name not in learned}
    assert {name for name in resting if not name.startswith("backbone.")} == {
        "context_encoder.pos_embed", "predictor.predictor_pos_embed"
    }  # fmt: skip
    assert not any(name.startswith("backbone.") for name in learned)


def test_the_target_follows_by_the_momentum_of_that_step() -> None:
    model = make(momentum=0.9, final_momentum=1.0)
    name = "blocks.1.mlp.fc1.weight"
    before = model.backbone.get_parameter(name).clone()
    with torch.no_grad():
        for parameter in model.context_encoder.parameters():
            parameter.add_(1.0)
    model.after_step(0.5, torch.ones(()))
    assert torch.equal(model.backbone.get_parameter(name), before), "a skipped step moves nothing"
    model.after_step(0.5, torch.zeros(()))
    torch.testing.assert_close(model.backbone.get_parameter(name), before + 0.05)
    model.after_step(0.0, torch.zeros(()))
    torch.testing.assert_close(model.backbone.get_parameter(name), before + 0.05 + 0.1 * 0.95)
    assert torch.equal(model.backbone.pos_embed, make().backbone.pos_embed)


def test_a_fixed_batch_is_learned() -> None:
    model = make()
    draws = drawn(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(40):
        losses.append(model(clips(), draws)["loss"])
        losses[-1].backward()
        optimiser.step()
        optimiser.zero_grad()
        model.after_step(step / 40, torch.zeros(()))
    assert losses[-1] < 0.75 * losses[0]


# -- fresh weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rescaled", [True, False])
def test_fresh_weights(rescaled: bool) -> None:
    model = make(replace(VIT, width=128, depth=3), predictor_width=128, predictor_depth=2, rescaled_init=rescaled)
    for blocks in (model.context_encoder.blocks, model.predictor.predictor_blocks):
        for number, block in enumerate(blocks, start=1):
            smaller = (2 * number) ** 0.5 if rescaled else 1.0
            for layer, expected in (
                (block.attn.qkv, 0.02), (block.mlp.fc1, 0.02), (block.attn.proj, 0.02 / smaller),
                (block.mlp.fc2, 0.02 / smaller),
            ):  # fmt: skip
                assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
                assert not layer.bias.any()
    assert model.context_encoder.patch_embed.proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(token.any() for token in model.predictor.mask_tokens)
    for name, value in model.context_encoder.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name]), "the target begins as the encoder"
    torch.manual_seed(0)
    again = replace(model.config).build(model.vit)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_positions_of_unequal_parts() -> None:
    model, uniform = make(predictor_width=16, uniform_positions=False), make()
    for one, other in (
        (model.context_encoder.pos_embed, uniform.context_encoder.pos_embed),
        (model.predictor.predictor_pos_embed, uniform.predictor.predictor_pos_embed),
    ):
        assert one.shape == other.shape and not torch.equal(one, other)
    assert torch.equal(model.backbone.pos_embed, model.context_encoder.pos_embed)


# -- what is worth seeing ----------------------------------------------------------------------------------------------


def test_diagnosis_by_hand() -> None:
    model = make()
    draws, whole = drawn(model), make().features(clips().transpose(1, 2))
    seen = model.diagnose(clips(), draws)
    assert seen["loss_by_mask"].mean().item() == pytest.approx(model(clips(), draws)["loss"].item(), rel=1e-5)
    assert seen["visible"].tolist() == pytest.approx([part.shape[1] / 32 for part in draws.context])
    assert seen["target_std"].item() == pytest.approx(whole.flatten(0, 1).std(dim=0).mean().item(), rel=1e-5)
    assert 0 < seen["target_std_clips"] < seen["target_std"]
    assert seen["ema_distance"] == 0
    torch.nn.init.zeros_(model.predictor.predictor_proj.weight)
    with torch.no_grad():
        for parameter in model.context_encoder.parameters():
            parameter.mul_(1.5 if parameter.requires_grad else 1.0)
    seen = model.diagnose(clips(), draws)
    assert seen["prediction_std"] == 0 and seen["ema_distance"].item() == pytest.approx(0.5, rel=1e-5)
    assert not any(value.requires_grad for value in seen.values())


def test_a_collapse_shows() -> None:
    model = make()
    torch.nn.init.zeros_(model.backbone.patch_embed.proj.weight)  # then only places are left
    seen = model.diagnose(clips(), drawn(model))
    assert seen["target_std_clips"] < 1e-5 < seen["target_std"]
    torch.nn.init.zeros_(model.backbone.norm.weight)  # and now not even these
    torch.nn.init.normal_(model.backbone.norm.bias)
    seen = model.diagnose(clips(), drawn(model))
    assert seen["target_std"] < 1e-5 and seen["loss_constant"] < 1e-5


def test_the_best_constant_is_no_better_than_it_says() -> None:
    for power in (1.0, 2.0):
        model = make(loss_exponent=power)
        seen, whole = model.diagnose(clips(), drawn(model)), model.features(clips().transpose(1, 2)).flatten(0, 1)
        for constant in (whole.mean(dim=0), whole.median(dim=0).values, torch.zeros(24)):
            assert seen["loss_constant"] <= (whole - constant).abs().pow(power).mean() / power + 1e-6


# -- arithmetic and shapes ---------------------------------------------------------------------------------------------


def test_bf16_is_near() -> None:
    model = make(variance_weight=0.1)
    draws = drawn(model)
    exact = model(clips(), draws)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(clips(), draws)
        seen = model.diagnose(clips(), draws)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in seen.values())


def test_compiled_as_one_graph_for_masks_of_any_size() -> None:
    torch.compiler.reset()
    model, graphs = make(replace(VIT, depth=1)), []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=count)
    for sizes in ((12, 8, 18, 24), (8, 4, 22, 18), (10, 6, 16, 20), (18, 7, 12, 21), (20, 9, 10, 23)):
        one, two, three, four = (torch.arange(size).expand(3, -1) + size for size in sizes)
        draws = Draws((one % 32, two % 32), (three % 32, four % 32))
        torch.testing.assert_close(compiled(clips(), draws), model(clips(), draws))
    assert len(graphs) == 2, "once a size has changed it may be any: nothing is compiled for each"


@pytest.mark.parametrize(("size", "patch", "length", "tubelet"), [(8, 4, 2, 2), (24, 8, 6, 3), (28, 14, 4, 1)])
def test_odd_sizes(size: int, patch: int, length: int, tubelet: int) -> None:
    model = make(ViTConfig(size, patch, width=24, depth=1, heads=2), length=length, tubelet=tubelet)
    frames = torch.randn(2, length, 3, size, size)
    losses = model(frames, drawn(model, frames))
    losses["loss"].backward()
    assert model.features(frames.transpose(1, 2)).shape == (2, length // tubelet * (size // patch) ** 2, 24)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=str(make_demonstrations()), out=tmp_path / "run", arch=toy_arch, image_size=16, patch_size=8,
        objective=replace(TOY, momentum=0.5), steps=4, batch_size=4, micro_batch=2, base_lr=0.1, warmup=0.5,
        beta2=0.999, final_weight_decay=0.4, stretch=1.25, clip_grad=10.0, device="cpu", checkpoint_every=2,
        log_every=1,
    )  # fmt: skip


def test_a_run_that_was_interrupted_ends_with_the_same_weights(config: PretrainConfig, tmp_path: Path) -> None:
    whole = pretrain(config)
    first = replace(config, out=tmp_path / "other")
    pretrain(first)
    (first.out / "checkpoints" / "step-00000004.pt").unlink()
    shutil.rmtree(first.out / "encoder")
    pretrain(replace(first, resume=True))
    one, other = (load_newest(run / "checkpoints", CPU) for run in (whole, first.out))
    assert one is not None and other is not None
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert not torch.equal(one["model"]["backbone.norm.bias"], one["model"]["context_encoder.norm.bias"])
    assert read_config(whole).objective == config.objective, "the masks' types come back as they were"


def test_the_encoder_of_a_run_is_its_target_encoder(config: PretrainConfig) -> None:
    run = pretrain(config)
    model, encoder = load_objective(run, CPU), FrozenEncoder.load(run)
    assert isinstance(model, VideoJEPA)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    assert torch.equal(encoder(pictures), model.encoder()(pictures)) and encoder.pooling == "mean"
    assert torch.equal(encoder.backbone.norm.bias, model.backbone.norm.bias)
    assert not torch.equal(encoder.backbone.norm.bias, model.context_encoder.norm.bias)
    assert encoder.clip(np.stack([pictures] * 4, axis=1)).shape == (3, 16)


def test_videos_shorter_than_a_clip_are_refused_by_name(config: PretrainConfig) -> None:
    with pytest.raises(UserError, match="too short: 9 frames, a sample needs 61"):
        pretrain(replace(config, objective=VideoJEPAConfig()))


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 0}, "clips of 0 frames"),
        ({"stride": 1.5}, "clips of 16 frames, 1.5 frames apart; give 1 or more, and whole frames"),
        ({"length": 15}, "clips of 15 frames are no multiple of the tubelet 2; change one"),
        ({"tubelet": 0}, "no multiple of the tubelet 0"),
        ({"blocks": (8,)}, "1 numbers of blocks and 2 block scales; give both for each type of mask"),
        ({"blocks": (), "block_scales": ()}, "0 numbers of blocks"),
        ({"blocks": (8, 0)}, "blocks (8, 0) must be at least 1"),
        ({"block_scales": (0.15, 1.0)}, "block scales (0.15, 1.0) lie in (0, 1)"),
        ({"min_aspect": 2.0}, "aspects 2.0..1.5 are empty"),
        ({"predictor_depth": 0}, "predictor_depth must be at least 1, not 0"),
        ({"momentum": 1.1}, "momentum 1.1 and final_momentum 1.0 must rise within [0, 1]"),
        ({"loss_exponent": 0.5}, "loss_exponent 0.5 must be at least 1"),
        ({"variance_weight": -1.0}, "variance_weight -1 at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        VideoJEPAConfig(**settings)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("vit", "settings", "said"),
    [
        (replace(VIT, patch_size=16), {}, "pictures of 16 px and patches of 16 make one patch"),
        (replace(VIT, heads=3), {}, "predictor width 16 is not divisible by the encoder's 3 heads"),
        (replace(VIT, width=12), {"uniform_positions": False}, "need widths divisible by 8, not 12"),
    ],
)
def test_an_encoder_that_does_not_fit(vit: ViTConfig, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(vit, **settings)
