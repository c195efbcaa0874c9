from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsp_robot.errors import UserError
from rsp_robot.pretrain.config import WHERE_IT_RUNS, PretrainConfig, read_config
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.run_folder import RunFolder

CONFIG = PretrainConfig(Path("demos.hdf5"), Path("runs/a"))


# -- numbers that follow -----------------------------------------------------------------------------------------------


def test_numbers_of_the_published_recipe() -> None:
    """ViT-S/16 on the 240 thousand videos of Kinetics-400: 400 epochs, batch 1536, two pairs of every video."""
    published = replace(CONFIG, epochs=400, repeated_sampling=2, batch_size=1536)
    assert published.peak_lr == pytest.approx(9e-4), "repeated sampling does not count"
    assert published.passes == 200
    assert published.samples_per_step == 3072
    assert published.total_steps(240_000) == 31_250
    assert published.warmup_steps(31_250) == 3125


def test_defaults_are_the_published_recipe_for_a_batch_of_256() -> None:
    assert (CONFIG.base_lr, CONFIG.peak_lr, CONFIG.weight_decay, CONFIG.warmup) == (1.5e-4, 1.5e-4, 0.05, 0.1)
    assert (CONFIG.min_crop, CONFIG.flip, CONFIG.same_augmentation, CONFIG.clip_grad) == (0.5, True, True, None)
    assert CONFIG.objective == RSPConfig() and CONFIG.samples_per_step == 256


def test_by_default_only_the_learning_rate_changes() -> None:
    paces = [CONFIG.pace(step, 100) for step in (0, 5, 10, 55)]
    assert [pace.lr for pace in paces] == pytest.approx([0.0, 0.75e-4, 1.5e-4, 0.75e-4])
    assert {pace.weight_decay for pace in paces} == {0.05}
    assert [pace.share for pace in paces] == [0.0, 0.05, 0.1, 0.55]


def test_stretched_schedules_are_cut_off() -> None:
    """Laid out for 125 steps, of which 100 are taken: a warm-up of 10, the rest on half a cosine, as V-JEPA's."""
    config = replace(
        CONFIG, base_lr=1.0, batch_size=256, warmup=0.1, start_lr=0.25, final_lr=0.0, stretch=1.25,
        weight_decay=0.04, final_weight_decay=0.4,
    )  # fmt: skip
    paces = [config.pace(step, 100) for step in (0, 10, 99)]
    late = 0.5 * (1 + math.cos(math.pi * 89 / 115))
    assert [pace.lr for pace in paces] == pytest.approx([0.25, 1.0, late])
    assert [pace.share for pace in paces] == pytest.approx([0.0, 0.08, 0.792])
    risen = 0.4 - 0.36 * 0.5 * (1 + math.cos(math.pi * 0.792))
    assert [paces[0].weight_decay, paces[2].weight_decay] == pytest.approx([0.04, risen])


@pytest.mark.parametrize(
    ("settings", "videos", "steps"),
    [
        ({"steps": 70}, 1000, 70),
        ({"steps": 70, "epochs": 3.0, "batch_size": 10}, 100, 30),
        ({"epochs": 3.0, "batch_size": 10}, 104, 31),  # 31.2
        ({"epochs": 3.0, "batch_size": 10}, 106, 32),  # 31.8
        ({"epochs": 3.0, "batch_size": 10, "repeated_sampling": 2}, 100, 15),
        ({"epochs": 0.5, "batch_size": 10}, 100, 5),
        ({"epochs": 0.001, "batch_size": 10}, 100, 1),
    ],
)
def test_steps_of_a_run(settings: dict[str, Any], videos: int, steps: int) -> None:
    assert replace(CONFIG, **settings).total_steps(videos) == steps


def test_passes_and_warmup() -> None:
    assert CONFIG.passes is None
    assert replace(CONFIG, epochs=3.0, repeated_sampling=2).passes == 1.5
    assert [replace(CONFIG, warmup=share).warmup_steps(25) for share in (0.0, 0.1, 0.5)] == [0, 2, 12]


# -- identity and storage ----------------------------------------------------------------------------------------------


def test_where_it_runs_is_not_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {
        "out": Path("b"), "resume": True, "device": "cuda:1", "prefetch": 0, "wandb": "project", "workers": 3,
        "keep_frames": "disk", "device_share": 0.5, "strict": True,
    }  # fmt: skip
    assert set(elsewhere) == set(WHERE_IT_RUNS)
    for name, value in elsewhere.items():
        assert replace(CONFIG, **{name: value}).identity() == CONFIG.identity()
        assert name not in CONFIG.identity()
    here = CONFIG.identity()
    assert here["data"] == str(Path.cwd() / "demos.hdf5")
    monkeypatch.chdir(tmp_path)
    assert CONFIG.identity() != here, "another file of the same name"
    assert replace(CONFIG, data=here["data"]).identity() == here


CHANGES: list[dict[str, Any]] = [
    {"data": "other.hdf5"}, {"cameras": ("back",)}, {"arch": "vit-tiny"}, {"image_size": 64}, {"patch_size": 8},
    {"objective": RSPConfig(kl_scale=0.5)}, {"objective": RSPConfig(latent="gaussian")}, {"init": Path("w.pth")},
    {"steps": 7}, {"epochs": 7.0}, {"batch_size": 128}, {"repeated_sampling": 2}, {"micro_batch": 64},
    {"base_lr": 1e-3}, {"warmup": 0.2}, {"weight_decay": 0.0}, {"clip_grad": 1.0}, {"min_crop": 0.7}, {"flip": False},
    {"same_augmentation": False}, {"color_jitter": 0.4}, {"short_side": 100}, {"fps": 10.0}, {"tasks": ("pour",)},
    {"episodes": ("demo_1*",)}, {"data": "demos.hdf5=1,b=1"},
    {"objective": RSPConfig(gap_unit="seconds")}, {"seed": 1}, {"precision": "bf16"}, {"holdout": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_changes_the_weights_makes_another_run(change: dict[str, Any]) -> None:
    assert replace(CONFIG, **change).identity() != CONFIG.identity()


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, objective=RSPConfig(latent="gaussian", groups=8, kl_scale=1e-5), init=Path("weights/rsp.pth")),
        replace(CONFIG, epochs=400, repeated_sampling=2, micro_batch=64, clip_grad=0.02, precision="bf16", seed=3),
        replace(CONFIG, keep_doublings=True, keep_every=100, holdout=0.1, probe_every=200, cameras=("front",)),
    ],
    ids=["defaults", "gaussian from weights", "recipe", "monitored"],
)
def test_a_run_folder_gives_its_configuration_back(config: PretrainConfig, tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "run", config.identity()).path
    found = read_config(run)
    assert found == replace(config, data=str(Path(config.data).resolve()), out=run, init=found.init)
    assert found.identity() == config.identity()
    assert isinstance(found.objective, RSPConfig) and isinstance(found.data, str)
    assert (found.init is None) == (config.init is None)
    assert found.init is None or (isinstance(found.init, Path) and found.init.name == "rsp.pth")
    stored = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert stored["objective"]["name"] == "rsp"


def test_settings_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    stored = {**CONFIG.identity(), "sharpness": 11}
    assert read_config(RunFolder.open(tmp_path / "run", stored).path).steps == CONFIG.steps


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "- a\n- b",
        "task: x",
        "a: [",
        "objective: rsp\ndata: d",
        "objective: {name: rsp, sharpness: 3}\ndata: d",
        "objective: {name: rsp}",
        "objective: {latent: gaussian}\ndata: d",
        "objective: {name: rsp}\ndata: d\nsteps: many",
    ],
)
def test_a_folder_without_such_a_run_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_config(tmp_path)
    assert str(error.value) == f"{tmp_path} is not a run folder of `rsp-robot pretrain`; give one"


def test_a_run_of_an_objective_that_is_not_here_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("objective: {name: rps}\ndata: d")
    with pytest.raises(UserError, match="unknown objective 'rps'; did you mean rsp?"):
        read_config(tmp_path)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"repeated_sampling": 0}, "repeated_sampling must be at least 1"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"keep_last": 0}, "keep_last must be at least 1"),
        ({"epochs": 0.0}, "epochs must be positive, not 0.0; leave it out to turn it off"),
        ({"micro_batch": 0}, "micro_batch must be positive"),
        ({"clip_grad": -1.0}, "clip_grad must be positive"),
        ({"probe_every": 0}, "probe_every must be positive"),
        ({"keep_every": -5}, "keep_every must be positive"),
        ({"warmup": 1.0}, "warmup and holdout are shares in [0, 1)"),
        ({"warmup": -0.1}, "warmup and holdout are shares in [0, 1)"),
        ({"holdout": 1.0}, "warmup and holdout are shares in [0, 1)"),
        ({"min_crop": 0.0}, "min_crop 0.0 must lie in (0, 1]; 1 turns cropping off"),
        ({"min_crop": 1.5}, "min_crop 1.5 must lie in (0, 1]"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        replace(CONFIG, **settings)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [{"seed": -1}, {"patience": 0}, {"prefetch": -1}, {"base_lr": -1e-3}, {"weight_decay": -0.1}, {"precision": "fp8"}],
)
def test_settings_that_would_fail_much_later_are_refused_now(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        replace(CONFIG, **settings)


def test_where_the_initial_weights_lie_does_not_depend_on_where_the_run_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = replace(CONFIG, init=tmp_path / "w.pth").identity()
    monkeypatch.chdir(tmp_path)
    assert replace(CONFIG, init=Path("w.pth")).identity() == absolute | {"data": str(Path(CONFIG.data).resolve())}
