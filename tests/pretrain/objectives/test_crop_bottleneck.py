"""CroBo: one frame, seen in a crop and in a smaller crop inside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.pretrain.augment import Augmentation
from rsp_robot.pretrain.batches import Batches
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.objectives.crop_bottleneck import CroBoConfig
from rsp_robot.pretrain.objectives.token_bottleneck import ToBoConfig
from rsp_robot.pretrain.samples import Samples

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
TOY = CroBoConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)


def run(toy_arch: str, **settings: Any) -> PretrainConfig:
    return PretrainConfig(
        "d", Path("o"), arch=toy_arch, image_size=16, patch_size=4, objective=TOY, batch_size=4, **settings
    )


def test_the_run_crops_globally_and_the_objective_locally(toy_arch: str) -> None:
    assert Augmentation.of(run(toy_arch)) == Augmentation(16, inner=(0.3, 0.6))
    asked = run(toy_arch, min_crop=0.8)
    asked = replace(asked, objective=replace(TOY, min_local=0.1, max_local=0.2))
    assert Augmentation.of(asked) == Augmentation(16, min_crop=0.8, inner=(0.1, 0.2))


def test_it_is_the_token_bottleneck_on_other_views() -> None:
    settings = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    models = []
    for config in (CroBoConfig(**settings), ToBoConfig(**settings, siam_weight=0.0)):
        torch.manual_seed(0)
        models.append(config.build(VIT))
    views = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    draws = models[0].draw(views, torch.Generator().manual_seed(1))
    assert models[0](views, draws) == models[1](views, draws)


def test_it_learns_from_single_frames(toy_arch: str, make_videos: Any) -> None:
    config = run(toy_arch)
    videos = make_videos([1, 9], [(20, 24)] * 2)
    read, texture = videos.read, torch.randint(0, 80, (20, 24, 3), generator=torch.Generator().manual_seed(0)).numpy()
    videos.read = lambda video, frames: read(video, frames) + texture.astype("uint8")
    batches = Batches(config, Samples(videos, TOY.frames), World(0, 1, torch.device("cpu")))
    (shard,) = batches.read(0)
    assert torch.equal(shard.frames[:, 0], shard.frames[:, 1]), "one frame twice"
    torch.manual_seed(0)
    engine = Engine(TOY.build(VIT), config, World(0, 1, torch.device("cpu")))
    prepared = batches.prepare(engine.objective, shard, 0)
    assert prepared.frames.shape == (4, 2, 3, 16, 16)
    assert not torch.allclose(prepared.frames[:, 0], prepared.frames[:, 1], atol=0.1)
    losses = [engine.step([prepared], Pace(1e-2, 0.05))["loss"].item() for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
