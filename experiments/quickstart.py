"""The whole line on one machine: demonstrations, RSP, frozen encoders, policies, success rates, report.

    rsp-robot quickstart --out runs/quickstart

Every step writes its result whole or not at all and is skipped when its result is there, so the same command after a
kill goes on where it stopped and ends with the same numbers. The defaults were chosen by measurement; see
docs/results.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from rsp_robot.backbones.vit import vit_config
from rsp_robot.devices import pick_device
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.envs import describe
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.envs.registry import check_cameras
from rsp_robot.envs.rendering import find_backend
from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.results import Arm, Results, print_table, save_results
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, Row, describe_config, evaluate
from rsp_robot.experiments.evaluation.recording import record_videos
from rsp_robot.experiments.presets import find_preset
from rsp_robot.experiments.report import write_report
from rsp_robot.machine import available_cores
from rsp_robot.policies.behaviour_cloning import BCConfig, load_policy, train_bc
from rsp_robot.policies.policy import Policy
from rsp_robot.pooling import pooled_width
from rsp_robot.pretrain.imagine import ImagineConfig, imagine
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import pretrain
from rsp_robot.run_folder import RunFolder, plain
from rsp_robot.versions import versions

ARMS = (
    Arm("rsp", "RSP", "Encoder pretrained with RSP on the demonstrations, frozen, plus proprioception", "RSP"),
    Arm("boxed", "boxed", "rsp-robot/small, which comes with the package and was not trained on these demonstrations, "
        "frozen, plus proprioception", "the boxed encoder"),
    Arm("random", "random encoder", "The same architecture with random weights, frozen, plus proprioception",
        "the random encoder"),
    Arm("blind", "blind", "Proprioception alone", "the blind policy"),
)  # fmt: skip

BOXED = "rsp-robot/small"

SMALL = find_preset("rsp-small")
SMALL_RSP = SMALL.objective if isinstance(SMALL.objective, RSPConfig) else RSPConfig()


@dataclass(frozen=True)
class QuickstartConfig:
    """Did pretraining on these demonstrations help the policy, and how sure are we?"""

    out: Path = Path("runs/quickstart")
    """The folder for everything; the same command again continues what is there."""
    task: str = "metaworld/push-v3"
    """The task to demonstrate and to solve."""
    camera: str = "closer"
    """The camera that demonstrations and policies see through."""
    image_size: int = 96
    """Side of the pictures in pixels."""
    demonstrations: int = 100
    """Successful episodes of the scripted expert to record."""
    horizon: int = 150
    """Steps after which an episode ends."""
    episodes: int = 50
    """Held-out episodes per policy."""
    evaluation_seed: int = 100_000
    """Seed of the first held-out episode; demonstrations use the seeds from 0."""
    arch: str = SMALL.arch
    """Architecture of the encoders, apart from the boxed one."""
    encoder_size: int = SMALL.image_size
    """Side of their input in pixels."""
    patch_size: int = SMALL.patch_size
    """Side of a patch in pixels."""
    pooling: str = "cls"
    """Their pooling: cls, mean, cls+mean or grid<k>."""
    rsp: RSPConfig = field(default_factory=lambda: SMALL_RSP)
    """The objective, with a decoder to match a small encoder."""
    steps: int = SMALL.steps
    """Pretraining steps."""
    batch_size: int = SMALL.batch_size
    """Frame pairs per pretraining step."""
    base_lr: float = SMALL.base_lr
    """Pretraining learning rate for a batch of 256; the rate used is base_lr x batch_size / 256."""
    min_crop: float = SMALL.min_crop
    """Smallest random crop in pretraining as a share of the picture."""
    bc: BCConfig = field(default_factory=BCConfig)
    """Behaviour cloning, the same for every policy."""
    seed: int = 0
    """Decides demonstrations, initial weights and training."""
    workers: int = 0
    """Simulation processes; 0 means one per core. The numbers do not depend on it."""
    device: str = "auto"
    """Where to pretrain: auto, cpu, cuda or cuda:<index>."""


def quickstart(config: QuickstartConfig) -> Path:
    """Run every step that is not done yet, print the table and return the path of ``report.html``.

    Raises:
        UserError: a setting is wrong, there is no working OpenGL, or the folder holds something else.
    """
    _check(config)
    find_backend()
    identity = {key: value for key, value in plain(config).items() if key not in ("out", "workers", "device")}
    RunFolder.open(config.out, identity, resume=True)
    say = Console(stderr=True, highlight=False).print
    say(f"[bold]1/5[/] demonstrations of {config.task}")
    data = _collect(config)
    say(f"[bold]2/5[/] pretraining RSP ({config.arch}, {config.encoder_size} px, {config.steps} steps)")
    encoders = _encoders(config, data)
    say("[bold]3/5[/] behaviour cloning")
    policies = {arm.name: _clone(config, data, arm.name, encoders.get(arm.name)) for arm in ARMS}
    say(f"[bold]4/5[/] evaluation, {config.episodes} episodes for each of {len(ARMS)} policies")
    evaluation = EvaluateConfig(
        config.task,
        out=config.out / "evaluation.jsonl",
        episodes=config.episodes,
        seed=config.evaluation_seed,
        horizon=config.horizon,
        workers=config.workers,
    )
    rows = evaluate(policies, evaluation)
    say("[bold]5/5[/] films and report")
    record_videos(policies, evaluation, rows, config.out / "media", camera=config.camera)
    results = _results(config, evaluation, rows)
    save_results(config.out / "results.json", results)
    report = write_report(config.out)
    print_table(results)
    return report


def _check(config: QuickstartConfig) -> None:
    """Refuse what would fail only after minutes, before there is a folder that holds the mistake."""
    least = {"image_size": 16, "workers": 0, "seed": 0}
    for name in ("demonstrations", "horizon", "episodes", "steps", "batch_size", *least):
        if getattr(config, name) < least.get(name, 1):
            raise UserError(f"{name}={getattr(config, name)} is out of range; choose at least {least.get(name, 1)}")
    check_cameras(describe(config.task), config.camera)
    pooled_width(config.pooling, vit_config(config.arch, config.encoder_size, config.patch_size).width)
    pick_device(config.device)
    most_tried = config.seed + 10 * config.demonstrations
    if config.seed - config.episodes < config.evaluation_seed < most_tried:
        raise UserError(
            f"held-out episodes from seed {config.evaluation_seed} could be among the demonstrations; "
            f"choose an evaluation seed of {most_tried} or more"
        )


def _collect(config: QuickstartConfig) -> Path:
    return collect(
        CollectConfig(
            task=config.task,
            out=config.out / "demonstrations.hdf5",
            demonstrations=config.demonstrations,
            cameras=(config.camera,),
            image_size=config.image_size,
            horizon=config.horizon,
            seed=config.seed,
            workers=config.workers or available_cores(),
        )
    )


def _encoders(config: QuickstartConfig, data: Path) -> dict[str, str]:
    run = pretrain(
        replace(
            SMALL,
            data=str(data),
            out=config.out / "pretrain",
            cameras=(config.camera,),
            arch=config.arch,
            image_size=config.encoder_size,
            patch_size=config.patch_size,
            objective=config.rsp,
            steps=config.steps,
            batch_size=config.batch_size,
            base_lr=config.base_lr,
            min_crop=config.min_crop,
            pooling=config.pooling,
            seed=config.seed,
            device=config.device,
            holdout=0.0,  # cloning learns from all demonstrations too
            probe_every=None,
            checkpoint_every=100,
            log_every=max(1, config.steps // 50),
            resume=True,
        )
    )
    if not (run / "media" / "imagined.json").exists():
        imagine(ImagineConfig(run=run, seed=config.seed, device=config.device))
    random = config.out / "encoders" / "random"
    if not (random / "config.json").exists():
        vit = vit_config(config.arch, config.encoder_size, config.patch_size)
        FrozenEncoder.random(vit, config.seed, config.pooling).save(random)
    return {"rsp": str(run / "encoder"), "boxed": BOXED, "random": str(random)}


def _clone(config: QuickstartConfig, data: Path, arm: str, encoder: str | None) -> Policy:
    return load_policy(train_bc(data, encoder, config.out / f"bc-{arm}", config.bc))


def _results(config: QuickstartConfig, evaluation: EvaluateConfig, rows: list[Row]) -> Results:
    last = evaluation.seed + evaluation.episodes - 1
    return Results(
        title="Did pretraining help the policy?",
        task=config.task,
        arms=ARMS,
        rows=tuple(rows),
        config={"quickstart": plain(config), "evaluation": describe_config(evaluation)},
        versions=versions(),
        seeds={"demonstrations from": config.seed, "training": config.seed, "evaluation": f"{evaluation.seed}-{last}"},
        command="rsp-robot " + " ".join(sys.argv[1:] if sys.argv[1:2] == ["quickstart"] else ["quickstart"]),
    )
