"""``rsp-robot digits``: objectives of this project on moving digits, where everything that moves is known.

Each variant is a run of ``pretrain``; then it is asked how fast a digit goes, which way it went at a switch, what comes
next, and how many numbers its features use. What is done stays done: the same command continues.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.experiments.bench.report import machine
from rsp_robot.experiments.digits.judge import (
    Effort,
    Film,
    Row,
    from_json,
    imagined_futures,
    imagined_ways,
    judge,
    to_json,
)
from rsp_robot.experiments.digits.output import draw_films, judge_claims, print_rows
from rsp_robot.experiments.digits.variants import VARIANTS, Variant, settled
from rsp_robot.files import atomic_path, read_json, write_json
from rsp_robot.pretrain.checkpoints import build_objective, load_objective
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.srvp import SRVP
from rsp_robot.pretrain.objectives.vj_vcr import VJVCR
from rsp_robot.pretrain.train import pretrain
from rsp_robot.run_folder import plain
from rsp_robot.videos.moving_digits import handwritten

UNTRAINED = {"untrained": "vj-vcr", "untrained-srvp": "srvp"}
"""Random weights to compare with, of the architecture of a variant."""
JUDGE = 1
"""Version of the judging: what another one found is judged again."""
RANDOM = {"untrained": "random weights, ViT", "untrained-srvp": "random weights, SRVP"}
QUICK = Effort(probe_clips=200, speed_clips=500, test_clips=200, predicted_clips=32, samples=5, rank_frames=128)


@dataclass(frozen=True)
class DigitsConfig:
    """Train objectives on moving digits and judge what they learned."""

    out: Path = Path("runs/digits")
    """Folder to write: a run for each variant, digits.json and digits.png."""
    variants: tuple[str, ...] = ()
    """Which to train; all by default."""
    quick: bool = False
    """A tenth of the steps and fewer clips: a look, not a measurement."""
    seed: int = 0
    """Decides weights, clips and samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS:
                raise unknown_name("variant", name, VARIANTS)


def digits(config: DigitsConfig) -> Path:
    """Train and judge every variant that is not done yet, print the table, and return the path of the picture.

    Raises:
        UserError: scikit-learn or torchmetrics is missing, or the folder holds something else.
    """
    handwritten(28)  # a missing package is told before anything is trained
    _check_metrics()
    device = str(pick_device(config.device))
    chosen = [VARIANTS[name] for name in config.variants or VARIANTS]
    say = Console(stderr=True, highlight=False).print
    started, rows, seconds = time.monotonic(), list[Row](), dict[str, float]()
    effort = QUICK if config.quick else Effort()
    for number, variant in enumerate(chosen):
        run = settled(variant, config.out, config.quick, config.seed, device)
        say(f"[bold]{number + 1}/{len(chosen)}[/] {variant.says} ({run.steps} steps){_left(number, chosen, started)}")
        found, seconds[variant.name] = _train_and_judge(variant, run, effort)
        rows += found
    rows += _untrained(config, chosen, effort, device)
    picture = _draw(config, chosen, device)
    names = {variant.name: variant.says for variant in chosen} | RANDOM
    print_rows(rows, names, Console())
    if config.quick:
        Console().print("A quick look: a tenth of the steps shows little of this; measure without --quick.")
    claims = [
        {"says": found.claim.says, "holds": found.holds, "difference": found.difference} for found in judge_claims(rows)
    ]
    write_json(
        config.out / "digits.json",
        {
            "date": date.today().isoformat(),
            "machine": machine(pick_device(device)),
            "config": plain(config),
            "effort": asdict(effort),
            "seconds": seconds,
            "claims": claims,
            "rows": to_json(rows),
        },
    )
    return picture


def _check_metrics() -> None:
    if find_spec("torchmetrics") is None:
        raise UserError("SSIM comes from torchmetrics, which is not installed; pip install 'rsp-robot[metrics]'")


def _left(number: int, chosen: Sequence[Variant], started: float) -> str:
    """Say how long the rest takes, going by what is done."""
    if not number:
        return ""
    rest = (time.monotonic() - started) / number * (len(chosen) - number)
    return f", about {rest / 60:.0f} min left" if rest >= 90 else f", about {rest:.0f} s left"


def _train_and_judge(variant: Variant, run: PretrainConfig, effort: Effort) -> tuple[list[Row], float]:
    """Return the rows of a variant and the seconds that it took, from ``judged.json`` where it is done."""
    kept = run.out / "judged.json"
    identity: dict[str, Any] = {"version": JUDGE, "run": run.identity(), "effort": asdict(effort)}
    if kept.exists():
        stored = read_json(kept)
        if stored.get("of") == identity:
            return from_json(stored["rows"]), float(stored["seconds"])
    start = time.monotonic()
    pretrain(replace(run, resume=(run.out / "config.yaml").exists()))
    model = load_objective(run.out, pick_device(run.device))
    rows = judge(variant.name, run, model, effort)
    seconds = round(time.monotonic() - start, 1)
    write_json(kept, {"of": identity, "seconds": seconds, "rows": to_json(rows)})
    return rows, seconds


def _untrained(config: DigitsConfig, chosen: Sequence[Variant], effort: Effort, device: str) -> list[Row]:
    """Ask random weights the same questions."""
    rows = []
    for name, of in UNTRAINED.items():
        if any(variant.name == of for variant in chosen):
            run = settled(VARIANTS[of], config.out, config.quick, config.seed, device)
            model = build_objective(run).to(device).eval()
            rows += judge(name, run, model, effort, trained=False)
    return rows


def _draw(config: DigitsConfig, chosen: Sequence[Variant], device: str) -> Path:
    """Write ``digits.png``: what the models predict."""
    sections: dict[str, list[list[Film]]] = {}
    for variant in chosen:
        run = settled(variant, config.out, config.quick, config.seed, device)
        model = load_objective(run.out, pick_device(device))
        if isinstance(model, SRVP):
            sections[variant.says] = imagined_futures(run, model)
        elif isinstance(model, VJVCR) and model.config.target != "features":
            sections[variant.says] = imagined_ways(run, model)
    picture = config.out / "digits.png"
    if sections:
        with atomic_path(picture) as temporary:
            Image.fromarray(draw_films(sections)).save(temporary, format="PNG")
    return picture
