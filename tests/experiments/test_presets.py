from __future__ import annotations

import re
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from rsp_robot.backbones.vit import vit_config
from rsp_robot.errors import UserError
from rsp_robot.experiments import presets
from rsp_robot.experiments.cli import read_options
from rsp_robot.experiments.presets import PRESETS, find_preset
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.objectives.vjepa import VideoJEPAConfig
from rsp_robot.pretrain.schedule import scaled_lr

FILES = sorted(Path(presets.__file__).parent.glob("[a-z]*.py"))


def test_every_file_is_a_preset() -> None:
    assert [path.stem.replace("_", "-") for path in FILES] == list(PRESETS)
    assert {"rsp-small", "rsp-vits16-k400"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_run_with_a_header(name: str) -> None:
    config = find_preset(name)
    assert isinstance(config, PretrainConfig)
    vit_config(config.arch, config.image_size, config.patch_size)
    assert config.out == Path("runs") / name
    assert config.probe_every is None or config.holdout > 0
    assert config.keep_every is None or config.keep_every % config.checkpoint_every == 0
    header = import_module(f"{presets.__name__}.{name.replace('-', '_')}").__doc__ or ""
    for heading in ("Source:", "Command:", "Hardware:", "Hours:", "Expected:"):
        assert re.search(rf"^{heading} +\S", header, re.MULTILINE), heading


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_of_the_header_gives_the_preset(name: str) -> None:
    header = import_module(f"{presets.__name__}.{name.replace('-', '_')}").__doc__ or ""
    command = re.search(r"^Command: +(.+?)^\w", header, re.MULTILINE | re.DOTALL)
    assert command is not None
    words = shlex.split(command[1])
    assert read_options("pretrain", words[words.index("pretrain") + 1 :]).config == find_preset(name)


def test_the_published_recipe() -> None:
    """The numbers of the paper's release (README and defaults of its pretraining script)."""
    config = find_preset("rsp-vits16-k400")
    assert (config.arch, config.image_size, config.patch_size) == ("vit-small", 224, 16)
    assert config.objective == RSPConfig()
    assert (config.batch_size, config.samples_per_step) == (1536, 3072)
    assert config.passes == 200
    assert config.peak_lr == pytest.approx(9e-4)
    assert config.peak_lr == scaled_lr(1.5e-4, 1536)
    assert config.weight_decay == 0.05
    assert (config.min_crop, config.flip, config.same_augmentation) == (0.5, True, True)
    steps = config.total_steps(240_000)
    assert steps == 31_250
    assert config.warmup_steps(steps) == 3125  # 20 of 200 epochs


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown preset 'rsp-smal'; did you mean rsp-small"):
        find_preset("rsp-smal")


def test_the_published_recipe_of_v_jepa() -> None:
    """The numbers of the release's configuration for ViT-L/16."""
    config = find_preset("vjepa-vitl16")
    assert (config.arch, config.image_size, config.patch_size) == ("vit-large", 224, 16)
    assert replace(config.objective, rescaled_init=True) == VideoJEPAConfig()
    first, peak, last = (config.pace(step, config.steps) for step in (0, 12_000, config.steps - 1))
    assert config.warmup_steps(config.steps) == 12_000
    assert first.lr == pytest.approx(2e-4) and peak.lr == pytest.approx(6.25e-4)
    assert first.weight_decay == pytest.approx(0.04) and first.share == 0
    end = config.pace(112_500, config.steps)  # where the stretched schedules would end
    assert end.lr == pytest.approx(1e-6) and end.weight_decay == pytest.approx(0.4) and end.share == 1
    assert last.lr > 5e-5 and last.weight_decay < 0.4 and last.share == pytest.approx(0.8, abs=1e-4)
    assert (config.batch_size, config.clip_grad, config.beta2, config.precision) == (3072, 10.0, 0.999, "bf16")
