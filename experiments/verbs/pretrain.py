"""``rsp-robot pretrain``: a recipe by name, changed where asked, and shown before it runs if wanted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.vit import vit_config
from rsp_robot.experiments.presets import PRESETS, find_preset
from rsp_robot.experiments.report.markup import short_number
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.loading import find_videos
from rsp_robot.pretrain.objectives import OBJECTIVES, ObjectiveConfig, find_objective
from rsp_robot.pretrain.samples import refuse_unfit, split_videos
from rsp_robot.videos import VideoSource

DEFAULT_OBJECTIVE = "rsp"
NOT_GIVEN = "(not given)"


@dataclass(frozen=True)
class PretrainCommand:
    """A run, where its defaults come from, and whether it runs at all."""

    config: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    preset: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="PRESET",
            help="Take the defaults of everything below from this recipe; with --help, show them. One of "
            f"{', '.join(PRESETS)}.",
        ),
    ] = None
    objective: Annotated[
        str,
        tyro.conf.arg(
            metavar="OBJECTIVE",
            help=f"The method, one of {', '.join(OBJECTIVES)}, or of an installed package; its settings are those of "
            "--objective.* below.",
        ),
    ] = DEFAULT_OBJECTIVE
    dry_run: bool = False
    """Print the recipe as a table and stop; needs neither data nor out."""


def default_command(options: Sequence[str]) -> PretrainCommand:
    """Return the defaults that ``--preset`` and ``--objective`` among the options choose.

    Data and out stay required, unless ``--dry-run`` is among them too.

    Raises:
        UserError: there is no preset or objective of that name.
    """
    preset, objective = named(options, "--preset"), named(options, "--objective")
    dry = any(word.replace("_", "-") == "--dry-run" for word in options)
    data: Any = NOT_GIVEN if dry else tyro.MISSING
    out: Any = Path(NOT_GIVEN) if dry else tyro.MISSING
    config = find_preset(preset) if preset else PretrainConfig(data=NOT_GIVEN, out=Path(NOT_GIVEN))
    if objective and objective != config.objective.name:
        config = replace(config, objective=find_objective(objective)())
    return PretrainCommand(replace(config, data=data, out=out), preset, config.objective.name, dry)


def named(options: Sequence[str], option: str) -> str | None:
    """Return the value of the last ``option VALUE`` or ``option=VALUE``, if there is one.

    >>> named(["--preset", "a", "--seed", "3", "--preset=b"], "--preset"), named(["--seed", "3"], "--preset")
    ('b', None)
    """
    found = None
    for word, following in zip(options, [*options[1:], ""], strict=True):
        if word == option and following and not following.startswith("-"):
            found = following
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def run_pretraining(command: PretrainCommand) -> Path | int:
    """Pretrain and return the run folder, or print the recipe.

    Raises:
        UserError: the data, the settings or the run folder do not allow it.
    """
    if command.dry_run:
        print_recipe(command)
        return 0
    from rsp_robot.pretrain.train import pretrain

    run = pretrain(command.config)
    # Under torchrun one process speaks for all.
    return run if os.environ.get("RANK", "0") == "0" else 0


def print_recipe(command: PretrainCommand, console: Console | None = None) -> None:
    """Print what the run would do, for a person to read."""
    config = command.config
    source = None if config.data == NOT_GIVEN else find_videos(config)
    title = command.preset or f"{config.objective.name} on {config.arch}"
    table = Table(title=f"Recipe: {title}", title_justify="left", title_style="bold", show_header=False)
    for name, value in recipe(config, source).items():
        table.add_row(name, value)
    (Console() if console is None else console).print(table, highlight=False, markup=False)


def recipe(config: PretrainConfig, source: VideoSource | None) -> dict[str, str]:
    """Say what a configuration comes to, name by name.

    Args:
        config: the run.
        source: its videos, if they are there; without them nothing is said of steps that depend on them.
    """
    vit = vit_config(config.arch, config.image_size, config.patch_size)
    with torch.device("meta"):  # counted, never allocated
        model = config.objective.build(vit)
    rate = f"{short_number(config.peak_lr)} ({short_number(config.base_lr)} x {config.batch_size} / 256)"
    pairs = str(config.samples_per_step)
    if config.repeated_sampling > 1:
        pairs += f" ({config.repeated_sampling} of each video)"
    lines = {
        "objective": _objective(config.objective),
        "encoder": _encoder(config, model.backbone),
        "trainable parameters": f"{millions(trained(model))}; the encoder has {millions(model.backbone.parameters())}",
        "batch": f"{config.batch_size} videos",
        "samples per step": pairs,
        "samples": config.objective.frames.describe(),
        **_length(config, source),
        "peak learning rate": rate,
        "optimiser": f"AdamW, weight decay {config.weight_decay:g}"
        + (f" to {config.final_weight_decay:g}" if config.final_weight_decay is not None else "")
        + (f", gradient cut to {config.clip_grad:g}" if config.clip_grad else ""),
        "augmentation": _augmentation(config),
        "precision": config.precision + (", compiled" if config.compile else ""),
    }
    return lines


def _encoder(config: PretrainConfig, backbone: Backbone) -> str:
    """Name what is exported; a ViT of the asked sizes, or what the objective has in its place."""
    tokens = f"{backbone.grid**2}{' + 1' if backbone.class_token else ''} tokens"
    kind = (backbone.describe() or {}).get("kind", "vit")
    name = f"{config.arch}/{config.patch_size}" if kind in ("vit", "vjepa") else kind
    return f"{name} at {backbone.image_size} px, {tokens}"


def _objective(objective: ObjectiveConfig) -> str:
    """Name the method and the settings that are not its defaults."""
    changed = [
        f"{entry.name} {value}"
        for entry in fields(objective)
        if (value := getattr(objective, entry.name)) != getattr(type(objective)(), entry.name)
    ]
    return f"{objective.name} with {', '.join(changed)}" if changed else f"{objective.name}, all settings its defaults"


def _length(config: PretrainConfig, source: VideoSource | None) -> dict[str, str]:
    """Videos, epochs, steps and warm-up, as far as they are known."""
    lines = {}
    videos = None
    if source is not None:
        fit, unfit = refuse_unfit(source, config.objective.frames)
        training, held_out = split_videos(source, fit, config.holdout)
        videos = len(training)
        frames = sum(source.videos[video].frames for video in training)
        lines["videos"] = f"{videos:,} of {frames:,} frames" + (f", {len(held_out):,} held out" if held_out else "")
        if unfit:
            lines["videos"] += f", {len(unfit):,} too short"
    elif config.holdout:
        lines["videos"] = f"{config.holdout:.0%} of them held out"
    if config.passes is not None:
        lines["real epochs"] = f"{config.passes:g}" + (
            f" ({config.epochs:g} / {config.repeated_sampling})" if config.repeated_sampling > 1 else ""
        )
    if config.passes is None or videos is not None:
        steps = config.total_steps(videos or 0)
        if videos is not None and config.passes is None:
            lines["real epochs"] = f"{steps * config.batch_size / videos:.4g}"
        lines["steps"] = f"{steps:,}"
        lines["warm-up"] = f"{config.warmup_steps(steps):,} of them, {_fall(config)}"
    else:
        lines["warm-up"] = f"{config.warmup * config.passes:g} real epochs, {_fall(config)}"
    return lines


def _fall(config: PretrainConfig) -> str:
    """How the learning rate goes on after the warm-up."""
    end = f"to {config.final_lr:.2g} of the peak" if config.final_lr else "to zero"
    held = f"{config.hold:.0%} of them at the peak, " if config.hold else ""
    cut = f", laid out for {config.stretch:g} times the steps" if config.stretch > 1 else ""
    return f"{held}then a {'cosine' if config.lr_decay == 'cosine' else 'straight line'} {end}{cut}"


def _augmentation(config: PretrainConfig) -> str:
    parts = [f"crops of {config.min_crop:g} to 1 of the picture" if config.min_crop < 1 else "no crop"]
    parts.append("mirrored at random" if config.flip else "no mirroring")
    if config.color_jitter:
        parts.append(f"colours changed by up to {config.color_jitter:.0%}")
    return ", ".join(parts) + ("" if config.same_augmentation else ", each frame on its own")


def trained(module: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Yield the parameters that an optimiser moves."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)


def millions(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Number of weights as text: ``59.0 M``."""
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:.1f} M"
