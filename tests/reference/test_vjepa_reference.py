"""V-JEPA against numbers of the published formulation, in float64: outputs, gradients, one step of the EMA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from rsp_robot.backbones.positions import sincos_3d
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.backbones.vjepa import VideoTransformer
from rsp_robot.pretrain.masking import take
from rsp_robot.pretrain.objectives.vjepa import Draws, VideoJEPA, VideoJEPAConfig
from rsp_robot.published_vjepa import vjepa_encoder, vjepa_weights

TOLERANCE = 1e-6
PARTS = {"encoder": "context_encoder", "predictor": "predictor", "target_encoder": "backbone"}


class Reference(NamedTuple):
    """A model with published weights in float64, what goes in, and what has to come out."""

    model: VideoJEPA
    frames: torch.Tensor
    draws: Draws
    outputs: dict[str, np.ndarray]
    gradient_norms: dict[str, float]
    config: dict[str, Any]
    state: dict[str, np.ndarray]


@pytest.fixture
def reference(path: Path, read_reference: Any) -> Reference:
    config, groups = read_reference(path)
    vit = ViTConfig(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=groups["state"]["encoder/backbone.blocks.0.mlp.fc1.weight"].shape[0] / config["embed_dim"],
    )
    types = sum(name.startswith("mask_context_") for name in groups["in"])
    settings = VideoJEPAConfig(
        length=config["num_frames"],
        tubelet=config["tubelet_size"],
        blocks=(8,) * types,
        block_scales=(0.15,) * types,
        predictor_width=config["pred_embed_dim"],
        predictor_depth=config["pred_depth"],
        uniform_positions=config["uniform_power"],
        loss_exponent=config["loss_exp"],
    )
    model = settings.build(vit).double()
    model.load_state_dict({ours(name): torch.tensor(value) for name, value in groups["state"].items()})
    context, target = (
        tuple(torch.tensor(groups["in"][f"mask_{part}_{i}"]) for i in range(types)) for part in ("context", "target")
    )
    frames = torch.tensor(groups["in"]["clip"]).transpose(1, 2)
    norms = {ours(name): value.item() for name, value in groups["gradnorm"].items()}
    return Reference(model, frames, Draws(context, target), groups["out"], norms, config, groups["state"])


def ours(name: str) -> str:
    """Name of a parameter of the reference, such as ``encoder/backbone.norm.bias``, in our model."""
    part, _, rest = name.partition("/backbone.")
    return f"{PARTS[part]}.{rest}"


def test_every_output(reference: Reference, wrong_outputs: Any) -> None:
    model, frames, draws, expected = reference.model, reference.frames, reference.draws, reference.outputs
    clips = frames.transpose(1, 2)
    contexts, features = model.contexts(clips, draws), model.features(clips)
    predictions = model.predictions(contexts, draws)
    found = {"target_full": model.backbone.clip(clips), "loss": model(frames, draws)["loss"]}
    for i, hidden in enumerate(draws.target):
        found[f"context_{i}"], found[f"prediction_{i}"] = contexts[i], predictions[i]
        found[f"target_{i}"] = take(features, hidden)
    outputs = {name: value for name, value in expected.items() if not name.startswith("ema_sum")}
    assert wrong_outputs(found, outputs, TOLERANCE) == {}


def test_every_gradient(reference: Reference, wrong_gradients: Any) -> None:
    model, expected = reference.model, reference.gradient_norms
    model(reference.frames, reference.draws)["loss"].backward()
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert wrong_gradients(learned, expected, TOLERANCE) == {}


def test_the_target_after_one_update(reference: Reference) -> None:
    model = reference.model
    for name, expected in reference.outputs.items():
        if not name.startswith("ema_sum_m"):
            continue
        model.load_state_dict({ours(key): torch.tensor(value) for key, value in reference.state.items()})
        momentum = float(name.removeprefix("ema_sum_m"))
        model.config = replace(model.config, momentum=momentum)
        model.after_step(0.0, torch.zeros(()))
        total = sum(float(parameter.sum()) for parameter in model.backbone.parameters())
        assert total == pytest.approx(expected.item(), rel=TOLERANCE)


def test_fixed_positions_are_those_we_would_make(reference: Reference) -> None:
    config, state = reference.config, reference.state
    grid, times = config["img_size"] // config["patch_size"], config["num_frames"] // config["tubelet_size"]
    for name, width in (
        ("encoder/backbone.pos_embed", config["embed_dim"]),
        ("predictor/backbone.predictor_pos_embed", config["pred_embed_dim"]),
    ):
        made = sincos_3d(width, grid, times, config["uniform_power"])
        np.testing.assert_allclose(made.numpy(), state[name], rtol=0, atol=1e-7)


def test_its_checkpoint_is_an_encoder_of_clips(reference: Reference, wrong_outputs: Any) -> None:
    """As the file would be published: the target encoder is taken, and its sizes are read off the weights."""
    content: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PARTS}
    for name, value in reference.state.items():
        part, _, rest = name.partition("/")
        content[part][f"module.{rest}"] = torch.tensor(value)
    state, sizes = vjepa_weights(content), reference.config
    assert state is not None
    config, weights = vjepa_encoder(state, {"num_heads": sizes["num_heads"]}, "the reference")
    assert config == reference.model.backbone.config
    model = VideoTransformer(config).double()
    model.load_state_dict(weights)
    found = {"target_full": model.clip(reference.frames.transpose(1, 2))}
    assert wrong_outputs(found, {"target_full": reference.outputs["target_full"]}, TOLERANCE) == {}
