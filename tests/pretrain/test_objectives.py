"""The registry of objectives, and what another package has to bring to add one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.batches import Batches
from rsp_robot.pretrain.config import Pace, PretrainConfig, read_config
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.objectives import OBJECTIVES, Objective, ObjectiveConfig, find_objective
from rsp_robot.pretrain.objectives.rsp import RSP, RSPConfig
from rsp_robot.pretrain.samples import Samples
from rsp_robot.pretrain.sampling import PairSpec
from rsp_robot.run_folder import RunFolder

VIT = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)


@dataclass(frozen=True)
class TwinsConfig(ObjectiveConfig):
    """The two frames' tokens should be alike."""

    name: ClassVar[str] = "twins"
    weight: float = 2.0

    @property
    def frames(self) -> PairSpec:
        return PairSpec(1, 2)

    def build(self, vit: ViTConfig) -> Objective:
        return Twins(vit, self)


class Noise(NamedTuple):
    noise: torch.Tensor


class Twins(Objective):
    def __init__(self, vit: ViTConfig, config: TwinsConfig) -> None:
        super().__init__()
        self.vit, self.config, self.weight = vit, config, config.weight
        self.backbone = VisionTransformer(vit)

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Noise:
        return Noise(torch.randn(frames[:, 1].shape, generator=generator))

    def forward(self, frames: torch.Tensor, draws: Noise) -> dict[str, torch.Tensor]:
        current, future = self.backbone(frames[:, 0]), self.backbone(frames[:, 1] + draws.noise)
        return {"loss": self.weight * (current - future).square().mean()}


@pytest.fixture
def another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that brings objectives: a good one, and one that shadows ours."""
    info = tmp_path / "site" / "twins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twins\nVersion: 1.0\n")
    entries = "[rsp_robot.objectives]\ntwins = twins_of_test:TwinsConfig\nrsp = twins_of_test:TwinsConfig\n"
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.setitem(sys.modules, "twins_of_test", type(sys)("twins_of_test"))
    monkeypatch.setattr(sys.modules["twins_of_test"], "TwinsConfig", TwinsConfig, raising=False)


def test_the_registry_knows_its_objectives_by_their_names() -> None:
    assert OBJECTIVES["rsp"] is RSPConfig and find_objective("rsp") is RSPConfig
    for name, config in OBJECTIVES.items():
        assert config.name == name
        assert config().frames.count >= 1 and config().frames.describe()


def test_an_unknown_objective_offers_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        find_objective("rps")
    assert str(error.value) == "unknown objective 'rps'; did you mean rsp?"


def test_other_packages_add_objectives(another_package: None) -> None:
    assert find_objective("twins") is TwinsConfig
    assert find_objective("rsp") is RSPConfig, "they do not replace ours"
    with pytest.raises(UserError, match="unknown objective 'twin'; did you mean twins?"):
        find_objective("twin")


def test_a_run_of_another_packages_objective_is_read_back(another_package: None, tmp_path: Path) -> None:
    config = PretrainConfig("d", Path("o"), objective=TwinsConfig(weight=0.5))
    run = RunFolder.open(tmp_path / "run", config.identity()).path
    assert read_config(run) == replace(config, data=str(Path("d").resolve()), out=run)


def test_another_packages_objective_trains(toy_arch: str, make_videos: Any) -> None:
    config = PretrainConfig(
        "d", Path("o"), arch=toy_arch, image_size=16, patch_size=8, objective=TwinsConfig(), batch_size=4
    )
    world = World(0, 1, torch.device("cpu"))
    batches = Batches(config, Samples(make_videos([9, 9], [(16, 16)] * 2), config.objective.frames), world)
    torch.manual_seed(0)
    engine = Engine(config.objective.build(VIT), config, world)
    prepared = [batches.prepare(engine.objective, shard, 0) for shard in batches.read(0)]
    losses = [engine.step(prepared, Pace(1e-2, 0.05))["loss"].item() for _ in range(5)]
    assert losses[-1] < 0.9 * losses[0]
    assert engine.objective.diagnose(*prepared[0]) == {}, "nothing to say is no mistake"
    assert engine.objective.encoder("mean").provenance == {"objective": "twins"}


def test_what_an_objective_has_to_bring() -> None:
    with pytest.raises(NotImplementedError):
        ObjectiveConfig().frames  # noqa: B018
    with pytest.raises(NotImplementedError):
        ObjectiveConfig().build(VIT)
    for call in (lambda: Objective().draw(torch.zeros(1)), lambda: Objective()(torch.zeros(1), None)):
        with pytest.raises(NotImplementedError):
            call()


def test_a_config_builds_its_model_from_torchs_generator() -> None:
    config = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = config.build(VIT)
        assert isinstance(model, RSP) and model.config is config and model.vit is VIT
        states.append(model.state_dict()["backbone.cls_token"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
