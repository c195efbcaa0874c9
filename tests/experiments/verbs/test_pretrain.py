from __future__ import annotations

import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from rsp_robot.backbones.vit import vit_config
from rsp_robot.experiments import cli
from rsp_robot.experiments.presets import PRESETS, find_preset
from rsp_robot.experiments.verbs.pretrain import PretrainCommand, millions, named, recipe, trained
from rsp_robot.pretrain import objectives
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives import Objective, ObjectiveConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.videos import VideoInfo, Videos

PLACES = ["--data", "videos", "--out", "runs/a"]


@dataclass(frozen=True)
class ToyConfig(ObjectiveConfig):
    """An objective with a setting of its own."""

    name: ClassVar[str] = "toy"

    zeal: float = 0.5
    """How much."""


@pytest.fixture
def toy_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objectives.OBJECTIVES, "toy", ToyConfig)


def read(*words: str) -> PretrainCommand:
    found = cli.read_options("pretrain", words)
    assert isinstance(found, PretrainCommand)
    return found


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The printed recipe as names and values."""
    rows = [line.strip("│\n").split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    return {row[0].strip(): row[1].strip() for row in rows}


def test_without_preset_the_options_are_those_of_the_config() -> None:
    command = read(*PLACES, "--steps", "7", "--objective.groups", "8", "--no-flip")
    wanted = PretrainConfig(Path("videos"), Path("runs/a"), steps=7, objective=RSPConfig(groups=8), flip=False)
    assert command == PretrainCommand(wanted, None, "rsp", False)


@pytest.mark.parametrize("words", [("--preset", "rsp-small"), ("--preset=rsp-small",)])
def test_a_preset_gives_the_defaults_and_options_change_them(words: tuple[str, ...]) -> None:
    preset = find_preset("rsp-small")
    command = read(*PLACES, *words, "--batch-size", "48", "--objective.max-gap", "9")
    objective = replace(preset.objective, max_gap=9)  # type: ignore[call-arg]
    places = {"data": "videos", "out": Path("runs/a")}
    assert command.config == replace(preset, batch_size=48, objective=objective, **places)  # type: ignore[arg-type]
    assert command.preset == "rsp-small"
    assert objective.decoder_width == 128  # type: ignore[attr-defined]


@pytest.mark.usefixtures("toy_objective")
def test_another_objective_brings_its_own_options() -> None:
    command = read(*PLACES, "--objective", "toy", "--objective.zeal", "0.9")
    assert command.config.objective == ToyConfig(0.9)
    small = read(*PLACES, "--preset", "rsp-small", "--objective", "toy")
    assert (small.config.objective, small.config.arch) == (ToyConfig(), "vit-nano")
    same = read(*PLACES, "--preset", "rsp-small", "--objective", "rsp")
    assert same.config.objective == find_preset("rsp-small").objective


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "rsp-smal"], "unknown preset 'rsp-smal'; did you mean rsp-small"),
        (["--objective", "rps"], "unknown objective 'rps'; did you mean rsp?"),
        (["--preset", "rsp-small"], "missing from rsp-robot pretrain: --data STR --out PATH"),
        (["--preset", "rsp-small", "--data", "x"], "missing from rsp-robot pretrain: --out PATH"),
        (["--preset"], "missing value for argument '--preset'"),
        ([*PLACES, "--objective.zeal", "1"], "--objective.zeal"),
        (["--dry-run", "--objective.min-gap", "90"], "gap range 90..48 is empty"),
        (["--dry-run", "--data", "no-such-place"], "no-such-place does not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", *words]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1


def test_help_lists_presets_and_objectives_and_shows_the_defaults_of_a_preset(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def shown(*words: str) -> str:
        with pytest.raises(SystemExit):
            cli.main(["pretrain", *words, "--help"])
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    plain = shown()
    assert "--preset PRESET" in plain and ", ".join(PRESETS) in plain
    assert "--objective OBJECTIVE" in plain and ", ".join(objectives.OBJECTIVES) in plain
    assert "(default: vit-small)" in plain
    small = shown("--preset", "rsp-small")
    assert "(default: vit-nano)" in small
    assert "--data STR Where the videos are: files, folders, HDF5 demonstrations," in small
    assert "Width of the decoder. (default: 128)" in small


def test_the_published_recipe_is_shown_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "--preset", "rsp-vits16-k400", "--dry-run"]) == 0
    lines = table(capsys)
    assert lines["trainable parameters"] == "59.0 M; the encoder has 21.7 M"
    assert lines["batch"] == "1536 videos"
    assert lines["samples per step"] == "3072 (2 of each video)"
    assert lines["real epochs"] == "200 (400 / 2)"
    assert lines["warm-up"].startswith("20 real epochs")
    assert lines["peak learning rate"] == "9e-4 (1.5e-4 x 1536 / 256)"
    assert lines["encoder"] == "vit-small/16 at 224 px, 196 + 1 tokens"
    assert lines["objective"] == "rsp, all settings its defaults"
    assert lines["precision"] == "bf16, compiled"
    assert "videos" not in lines
    assert "steps" not in lines


VIDEOS = Videos([VideoInfo("file", f"{number}.mp4", "", 30, 4, 4, fps=10.0) for number in range(20)])


def test_with_data_steps_and_epochs_are_known() -> None:
    config = PretrainConfig(Path("a"), Path("b"), steps=500, batch_size=9, holdout=0.1, arch="vit-nano", image_size=32)
    lines = recipe(config, VIDEOS)
    assert lines["videos"] == "18 of 540 frames, 2 held out"
    assert lines["steps"] == "500"
    assert lines["real epochs"] == "250"
    assert lines["warm-up"].startswith("50 of them")
    by_epochs = recipe(replace(config, epochs=60, repeated_sampling=3), VIDEOS)
    assert by_epochs["real epochs"] == "20 (60 / 3)"
    assert by_epochs["steps"] == "40"  # 20 x 18 / 9


def test_schedules_and_encoders_of_other_objectives_are_said() -> None:
    srvp = recipe(find_preset("srvp-kth"), None)
    assert srvp["encoder"] == "conv64 at 64 px, 64 tokens"
    assert srvp["warm-up"].endswith("75% of them at the peak, then a straight line to zero")
    vjepa = recipe(find_preset("vjepa-vitl16"), None)
    assert vjepa["encoder"] == "vit-large/16 at 224 px, 196 tokens"
    assert vjepa["warm-up"].endswith("of the peak, laid out for 1.25 times the steps")
    assert vjepa["optimiser"].startswith("AdamW, weight decay 0.04 to 0.4")


def test_what_differs_from_the_defaults_is_named() -> None:
    objective = RSPConfig(latent="gaussian", groups=8)
    config = PretrainConfig(
        Path("a"), Path("b"), objective=objective, arch="vit-nano", image_size=32, clip_grad=1.0, min_crop=1.0,
        flip=False, same_augmentation=False,
    )  # fmt: skip
    lines = recipe(config, None)
    assert lines["objective"] == "rsp with latent gaussian, groups 8"
    assert lines["optimiser"] == "AdamW, weight decay 0.05, gradient cut to 1"
    assert lines["augmentation"] == "no crop, no mirroring, each frame on its own"
    assert lines["precision"] == "fp32"


def test_counting_parameters_counts_the_trainable_ones() -> None:
    model = RSPConfig().build(vit_config("vit-small", 224, 16))
    assert isinstance(model, Objective)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (trainable, millions(trained(model))) == (59_006_208, "59.0 M")
    assert sum(p.numel() for p in model.parameters()) > trainable  # the positions are fixed
    layer = torch.nn.Linear(1000, 1000)
    layer.weight.requires_grad_(False)
    assert millions(trained(layer)) == "0.0 M"


def test_a_run_is_handed_to_the_engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[PretrainConfig] = []

    def pretrain(config: PretrainConfig) -> Path:
        seen.append(config)
        return config.out

    engine = types.ModuleType("rsp_robot.pretrain.train")
    engine.pretrain = pretrain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rsp_robot.pretrain.train", engine)
    assert cli.main(["pretrain", "--preset", "rsp-small", *PLACES]) == 0
    assert seen == [replace(find_preset("rsp-small"), data="videos", out=Path("runs/a"))]
    assert capsys.readouterr().out == "runs/a\n"


def test_under_torchrun_one_process_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("rsp_robot.pretrain.train.pretrain", lambda config: config.out)
    for rank, printed in (("0", "o\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["pretrain", "--data", "d", "--out", "o"]) == 0
        assert capsys.readouterr().out == printed


def test_the_last_of_several_names_counts() -> None:
    assert named(["--preset", "a", "--preset=b", "--preset", "c"], "--preset") == "c"
    assert named(["--preset", "--dry-run"], "--preset") is None
    assert named(["--objective.groups", "3"], "--objective") is None
