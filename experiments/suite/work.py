"""What the jobs of a suite do; a job can be run by any process that sees the suite's folder, any number of times."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.devices import pick_device
from rsp_robot.envs import describe
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate
from rsp_robot.experiments.evaluation.rows import Row
from rsp_robot.experiments.evaluation.simulation_worker import die_with
from rsp_robot.experiments.evaluation.workers import Processes
from rsp_robot.experiments.protocols import Protocol, ProtocolTask, to_collect
from rsp_robot.experiments.suite.jobs import EYELESS, PRETRAIN, Encoder, Job, Place, SuitePlan, read_plan
from rsp_robot.experiments.suite.pretraining import is_pretrained, pretrain_encoder, pretraining_fingerprint
from rsp_robot.files import read_json, write_json
from rsp_robot.machine import available_cores
from rsp_robot.policies.bc_config import BCConfig
from rsp_robot.policies.file_lock import lock

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

LAST = "last"
"""What the rows of a job call the declared checkpoint."""


def run_job(place: Place, plan: SuitePlan, job: Job, processes: Processes | None = None) -> None:
    """Do a job; one that is done already costs nothing.

    ``processes`` are simulation processes that jobs of this process share.

    Raises:
        UserError: a setting is wrong, or what is there was made with other settings.
    """
    if job.kind == "demonstrations":
        _collect(place, plan, job)
    elif job.kind == "pretraining":
        pretrain_encoder(place, plan, plan.encoders[job.encoder].objective)
    elif job.kind == "embeddings":
        _embed(place, plan, job)
    else:
        work = place.work(job)
        with lock(work / ".lock", exclusive=True, say=f"{job.key}: another process is at it; waiting"):
            if not is_done(place, plan, job):
                _train_and_evaluate(place, plan, job, processes)


def is_done(place: Place, plan: SuitePlan, job: Job) -> bool:
    """Whether the result of a job is there; embeddings are looked for by those who need them.

    Raises:
        UserError: there is one, but of other settings.
    """
    if job.kind == "demonstrations":
        return place.demonstrations(plan, job.task).exists()
    if job.kind == "pretraining":
        return is_pretrained(place, plan.encoders[job.encoder].objective)
    if job.kind == "embeddings" or not place.score(job).exists():
        return False
    found, wanted = read_json(place.score(job)), settings_of(plan, job)
    if found["settings"] != wanted:
        keys = [key for key in wanted if found["settings"].get(key) != wanted[key]]
        raise UserError(
            f"{place.work(job)} was made with another {' and '.join(keys)}; give another --out, or remove it"
        )
    return not found["errors"]


def settings_of(plan: SuitePlan, job: Job) -> dict[str, Any]:
    """Return what the result of a policy job depends on, as plain values."""
    protocol = plan.protocol.plain()
    for key in ("tasks", "seeds", "differences", "encoders", "against", "pretraining_steps", "pretraining_batch"):
        del protocol[key]  # of pretraining the encoder's fingerprint tells
    return {
        "protocol": protocol,
        "task": next(task for task in plan.protocol.plain()["tasks"] if task["task"] == job.task),
        "encoder": plan.encoders[job.encoder].fingerprint,
        "seed": job.seed,
        "data": plan.data,
        "experts": plan.experts,
    }


def identify(spec: str, protocol: Protocol, device: str) -> Encoder:
    """Load what a spec names, and say which encoder it is.

    Raises:
        UserError: it cannot be loaded, or there is no such objective to pretrain with.
    """
    if spec in EYELESS:
        return Encoder(spec, spec)
    if spec.startswith(PRETRAIN):
        return Encoder(spec, pretraining_fingerprint(spec.removeprefix(PRETRAIN), protocol))
    absolute = str(Path(spec).resolve()) if Path(spec).exists() else spec
    return Encoder(absolute, load_encoder(absolute, device).fingerprint)


@lru_cache(maxsize=2)
def load_encoder(spec: str, device: str) -> FrozenEncoder:
    """Load an encoder; the last two stay in memory."""
    from rsp_robot.encoder import FrozenEncoder

    return FrozenEncoder.load(spec, pick_device(device))


def pooled(encoder: FrozenEncoder, protocol: Protocol) -> FrozenEncoder:
    """Return the encoder with the protocol's pooling; its own where it has no class token to take."""
    wanted = protocol.pooling
    if not wanted or wanted == encoder.pooling or (wanted == "cls" and not encoder.backbone.class_token):
        return encoder
    return encoder.with_pooling(wanted)


def check_demonstrations(place: Place, plan: SuitePlan) -> list[str]:
    """Look at demonstrations before anything is begun.

    Returns:
        a line about each task whose given demonstrations are not what the protocol asks for.

    Raises:
        UserError: there are none, and nobody demonstrates the task.
    """
    notes = []
    for task in plan.protocol.tasks:
        path = place.demonstrations(plan, task.task)
        if not plan.data:
            if not path.exists():
                _expert(plan, task)
            continue
        if not path.exists():
            raise UserError(
                f"{path} does not exist; --data needs a file of that name, as `rsp-robot collect` writes it"
            )
        with DemonstrationFile(path) as file:
            found = {"demonstrations to train on": len(file.train), "image_size": file.info.image_size}
            of = file.info.task
        if of and of != task.task:
            raise UserError(f"{path} demonstrates {of}, not {task.task}; give another file")
        wanted = {"demonstrations to train on": plan.protocol.demonstrations, "image_size": plan.protocol.image_size}
        for key, value in wanted.items():
            if found[key] != value:
                notes.append(f"{task.task}: {key} {found[key]} as given, the protocol has {value}")
    return notes


def _expert(plan: SuitePlan, task: ProtocolTask) -> Path | None:
    """Return the learned expert of a task; None where a scripted one demonstrates it."""
    from rsp_robot.envs.learned_expert import describe_learned_expert

    if plan.experts and (Path(plan.experts) / task.slug).exists():
        describe_learned_expert(Path(plan.experts) / task.slug, task.task)
        return Path(plan.experts) / task.slug
    if describe(task.task).expert:
        return None
    folder = Path(plan.experts or "runs/experts") / task.slug
    raise UserError(
        f"nobody demonstrates {task.task}; train an expert, rsp-robot rl {task.task} --encoder state --out {folder}, "
        f"and give --experts {folder.parent}, or give recordings with --data FOLDER ({task.file_name})"
    )


def _collect(place: Place, plan: SuitePlan, job: Job) -> None:
    protocol, task = plan.protocol, plan.protocol.task(job.task)
    out = place.demonstrations(plan, job.task)
    with lock(out.with_name(f".{out.name}.lock"), exclusive=True, say=f"{job.key}: another process is at it; waiting"):
        collect(
            CollectConfig(
                task=task.task,
                out=out,
                demonstrations=to_collect(protocol.demonstrations),
                cameras=cameras_of(protocol, task.task),
                image_size=protocol.image_size,
                quality=protocol.quality,
                action_noise=protocol.action_noise,
                horizon=task.horizon,
                steps_after_success=protocol.steps_after_success,
                workers=plan.workers or available_cores(),
                expert=_expert(plan, task),
            )
        )


def _embed(place: Place, plan: SuitePlan, job: Job) -> None:
    """Put the embeddings of a task's demonstrations into the cache, from which every training seed takes them."""
    from rsp_robot.policies.embeddings import content_hash, embed_demonstrations

    encoder = pooled(load_encoder(place.source(plan.encoders[job.encoder]), plan.device), plan.protocol)
    path = place.demonstrations(plan, job.task)
    with DemonstrationFile(path) as file:
        for camera in cameras_of(plan.protocol, job.task):
            embed_demonstrations(file, content_hash(path), encoder, camera)


def cameras_of(protocol: Protocol, task: str) -> tuple[str, ...]:
    """Return the cameras of a task: its own in the protocol, or the protocol's, or the task's default."""
    return protocol.task(task).cameras or protocol.cameras or (describe(task).default_camera,)


def cloning_of(protocol: Protocol, spec: str, task: str, rows: int, seed: int, device: str) -> BCConfig:
    """Return the training of a policy.

    Args:
        protocol: says how.
        spec: what it sees with; a blind policy has no history.
        task: task id.
        rows: training rows of the demonstrations.
        seed: of the training.
        device: where to train.
    """
    steps = protocol.optimiser_steps(rows)
    return BCConfig(
        head=protocol.head,
        cameras=cameras_of(protocol, task),
        history=1 if spec == "none" else protocol.history,
        fusion=protocol.fusion,
        proprio=protocol.proprio,
        labels=protocol.labels,
        normalise_actions=protocol.normalise_actions,
        steps=steps,
        batch_size=protocol.batch_size,
        lr=protocol.lr,
        schedule=protocol.schedule,
        weight_decay=protocol.weight_decay,
        checkpoint_every=protocol.checkpoint_every(rows),
        log_every=max(1, steps // 40),
        seed=seed,
        device=device,
    )


def _train_and_evaluate(place: Place, plan: SuitePlan, job: Job, processes: Processes | None) -> None:
    from rsp_robot.policies.behaviour_cloning import load_policy, train_bc
    from rsp_robot.policies.embeddings import content_hash

    began = time.monotonic()
    protocol, task, work = plan.protocol, plan.protocol.task(job.task), place.work(job)
    spec, data = place.source(plan.encoders[job.encoder]), place.demonstrations(plan, job.task)
    encoder = None if spec in EYELESS else pooled(load_encoder(spec, plan.device), protocol)
    with DemonstrationFile(data) as file:
        rows = sum(file.lengths[index] for index in file.train)
    config = cloning_of(protocol, spec, job.task, rows, job.seed, plan.device)
    last = train_bc(data, spec if encoder is None else encoder, work / "training", config, encoder_source=spec)
    folders = {LAST: last} | {
        f"step-{step:06d}": work / "training" / "checkpoints" / f"step-{step:06d}"
        for step in range(config.checkpoint_every, config.steps, config.checkpoint_every or 1)
        if config.checkpoint_every
    }
    played = evaluate(
        {name: load_policy(folder, encoder) for name, folder in folders.items()},
        EvaluateConfig(
            (job.task,),
            out=work / "evaluation.jsonl",
            episodes=protocol.episodes,
            seed=protocol.first_start,
            horizon=task.horizon,
            stop_on_success=protocol.stop_on_success,
            workers=plan.workers,
            protocol=protocol.label,
        ),
        processes,
    )
    curve = learning_curve(played, protocol, config.steps)
    write_json(
        place.score(job),
        {
            "settings": settings_of(plan, job),
            "data_sha256": content_hash(data),
            "demonstrations": str(data),
            "steps": config.steps,
            "curve": curve,
            "last": curve[-1][1],
            "maximum": max(score for _, score in curve),
            "errors": sum(bool(row["error"]) for row in played),
            "seconds": round(time.monotonic() - began, 1),
        },
    )


def learning_curve(rows: list[Row], protocol: Protocol, steps: int) -> list[list[float]]:
    """Return ``[step, mean score]`` of every checkpoint that was evaluated, the last one at ``steps``.

    Raises:
        UserError: none of the episodes of a checkpoint could be played.
    """
    scores: dict[int, list[float]] = {}
    for row in rows:
        step = steps if row["policy"] == LAST else int(row["policy"].removeprefix("step-"))
        score = protocol.score_of(row)
        scores.setdefault(step, []).extend([] if score is None else [score])
    if not all(scores.values()):
        reason = next(row["error"] for row in rows if row["error"])
        raise UserError(f"no episode of {rows[0]['task']} could be played ({reason}); run the same command again")
    return [[step, fmean(values)] for step, values in sorted(scores.items())]


def main(arguments: list[str], environment: Mapping[str, str] | None = None) -> int:
    """Run one job in a process of its own: ``FOLDER KEY [PARENT]``; return the exit status.

    The process ends with the process ``PARENT``, if one is given.
    """
    folder, key, *parent = arguments
    if parent:
        die_with(int(parent[0]))
    os.environ.update(environment or {})
    place = Place(Path(folder))
    try:
        plan = read_plan(read_json(place.plan))
        run_job(place, plan, plan.job(key))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
