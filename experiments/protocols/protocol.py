"""What an evaluation protocol is: everything that a success rate depends on besides the encoder, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rsp_robot.errors import UserError, unknown_name

Score = Literal["once", "end", "lasting", "return"]
Headline = Literal["last", "maximum"]


@dataclass(frozen=True)
class ProtocolTask:
    """One task of a protocol."""

    task: str
    """Task id."""
    horizon: int | None = None
    """Steps of an episode, in demonstrations and evaluations; None for the task's own."""
    lasting: int = 0
    """Steps with success that an episode has to exceed, where the protocol scores ``lasting``."""
    cameras: tuple[str, ...] = ()
    """Cameras of its own, where one choice does not fit all tasks; empty for the protocol's."""

    @property
    def file_name(self) -> str:
        """Name of the task's demonstrations in a folder."""
        return f"{self.slug}.hdf5"

    @property
    def slug(self) -> str:
        """The task as a part of a path."""
        return self.task.replace("/", "-")


@dataclass(frozen=True)
class Protocol:
    """How encoders are compared: demonstrations, policy, training, evaluation, score."""

    name: str
    """What it is called."""
    tasks: tuple[ProtocolTask, ...]
    """On which tasks; each gets a policy of its own."""
    cameras: tuple[str, ...]
    """Cameras whose embeddings are joined; empty for each task's own, or else its default camera."""
    image_size: int
    """Side of the rendered pictures in pixels; the encoder resizes them to its own input."""
    demonstrations: int
    """Demonstrations that are trained on (a tenth more is collected, to watch the validation loss)."""
    episodes: int
    """Episodes of each evaluation."""
    seeds: tuple[int, ...]
    """Training seeds."""
    score: Score
    """Outcome of an episode: success at any step; at the last; at more than so many steps; or the return as a share of
    ``largest_return``."""
    headline: Headline
    """The score to be quoted: of the checkpoint that was declared beforehand, which is the last; or, as in most
    publications, of the best among the scheduled checkpoints, chosen by the same evaluation."""
    quality: Literal["lean", "full"] = "lean"
    """Rendering quality."""
    action_noise: float = 0.1
    """Standard deviation of the noise on the demonstrator's actions."""
    labels: Literal["auto", "executed"] = "auto"
    """Actions to imitate: the demonstrator's before the noise, where there is any; or those executed."""
    steps_after_success: int = 5
    """Steps that a demonstration goes on after its first success."""
    proprio: bool = True
    """Whether the policy feels its body besides what it sees."""
    history: int = 1
    """Embeddings per observation."""
    fusion: Literal["concat", "difference"] = "concat"
    """How they are joined; difference: e1 - e0, e2 - e1, e2."""
    pooling: str = ""
    """Pooling of the encoder; empty for its own. ``cls`` for an encoder without class token: its own."""
    head: str = "mlp"
    """Head of the policy."""
    normalise_actions: Literal["none", "standard", "range"] = "standard"
    """What the head learns."""
    lr: float = 1e-3
    """Learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate over time."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW; 0 makes it Adam."""
    batch_size: int = 128
    """Samples per optimiser step."""
    epochs: int = 0
    """Passes over the demonstrations; 0 where ``steps`` says how long."""
    steps: int = 0
    """Optimiser steps; 0 where ``epochs`` says how long."""
    evaluate_every: int = 0
    """Epochs (or steps) between scheduled evaluations; 0 evaluates at the end alone."""
    first_start: int = 100_000
    """Seed of the first start state; all checkpoints, seeds and encoders play the same ones."""
    largest_return: float = 1000.0
    """What a return is divided by, where the protocol scores ``return``."""
    encoders: tuple[str, ...] = ()
    """Encoders that are compared where a command names none."""
    against: tuple[str, ...] = ()
    """Names of encoders that every other is compared with, as far as they take part; empty: every two are compared."""
    pretraining_steps: int = 2000
    """Optimiser steps of an encoder ``pretrain:<objective>``, which is pretrained on the demonstrations."""
    pretraining_batch: int = 32
    """Samples of each of those steps."""
    differences: tuple[str, ...] = ()
    """In what this is not the original."""
    quick: bool = False
    """Whether it was shrunk to minutes: its numbers are good for nothing but a look."""

    def __post_init__(self) -> None:
        if (self.epochs > 0) == (self.steps > 0):
            raise UserError(f"protocol {self.name} needs either epochs or steps; correct the settings")
        if min(self.episodes, self.demonstrations, len(self.tasks), len(self.seeds)) < 1:
            raise UserError(f"protocol {self.name} lacks tasks, seeds, demonstrations or episodes; correct it")
        if min(self.pretraining_steps, self.pretraining_batch) < 1:
            raise UserError(f"protocol {self.name} pretrains with no steps or samples; correct the settings")
        length = self.epochs or self.steps
        if self.evaluate_every < 0 or (self.evaluate_every and length % self.evaluate_every):
            raise UserError(
                f"protocol {self.name} evaluates every {self.evaluate_every} of {length}, which does not end with the "
                "last checkpoint; correct the settings"
            )
        if self.headline == "maximum" and not self.evaluate_every:
            raise UserError(f"protocol {self.name} has no schedule to take a maximum over; correct the settings")

    @property
    def label(self) -> str:
        """The name as rows and tables show it: a quick one says so."""
        return f"{self.name} (quick)" if self.quick else self.name

    @property
    def evaluations(self) -> int:
        """Evaluated checkpoints of one training, the last one included."""
        return (self.epochs or self.steps) // self.evaluate_every if self.evaluate_every else 1

    @property
    def stop_on_success(self) -> bool:
        """Whether an episode may end at its first success: where nothing after it counts."""
        return self.score == "once"

    def task(self, name: str) -> ProtocolTask:
        """Return the task called ``name``.

        Raises:
            UserError: it is none of this protocol's.
        """
        for task in self.tasks:
            if task.task == name:
                return task
        raise unknown_name(f"task of {self.name}", name, [task.task for task in self.tasks])

    def score_of(self, row: Mapping[str, Any]) -> float | None:
        """Return the outcome of one episode in [0, 1], from its evaluation row; None where it ended in an error."""
        if row["error"]:
            return None
        if self.score == "return":
            return min(1.0, max(0.0, row["return"] / self.largest_return))
        if self.score == "lasting":
            return float(row["success_steps"] > self.task(row["task"]).lasting)
        return float(row["success_once"] if self.score == "once" else row["success_at_end"])

    @property
    def score_in_words(self) -> str:
        """What the score of an episode is."""
        if self.score == "return":
            return f"return / {self.largest_return:g}"
        if self.score == "lasting":
            bounds = sorted({task.lasting for task in self.tasks})
            return f"success at more than {' or '.join(map(str, bounds))} steps (by task)"
        return "success at any step" if self.score == "once" else "success at the last step"

    def optimiser_steps(self, rows: int) -> int:
        """Return how many optimiser steps training takes with ``rows`` training rows; the last batch is not dropped."""
        return self.steps or self.epochs * self.epoch(rows)

    def checkpoint_every(self, rows: int) -> int:
        """Return the optimiser steps between scheduled evaluations; 0 without a schedule."""
        return self.evaluate_every * (1 if self.steps else self.epoch(rows))

    def epoch(self, rows: int) -> int:
        """Return the optimiser steps of one pass over ``rows`` training rows."""
        return -(-rows // self.batch_size)

    def filmed_by(self, *cameras: str) -> Protocol:
        """Return the protocol with other cameras, the same for all tasks."""
        return replace(self, cameras=cameras, tasks=tuple(replace(task, cameras=()) for task in self.tasks))

    def narrowed(self, tasks: tuple[str, ...] = (), seeds: int | None = None) -> Protocol:
        """Return the protocol with some of its tasks and ``seeds`` training seeds: its own, then the next numbers.

        Raises:
            UserError: a task is none of this protocol's or is named twice, or fewer than one seed is asked for.
        """
        if len(set(tasks)) != len(tasks):
            raise UserError(f"a task is named twice in {', '.join(tasks)}; name each once")
        if seeds is not None and seeds < 1:
            raise UserError(f"--seeds {seeds} trains nothing; choose at least 1")
        chosen = tuple(self.task(name) for name in tasks) or self.tasks
        wanted = len(self.seeds) if seeds is None else seeds
        more = range(max(self.seeds) + 1, max(self.seeds) + 1 + max(0, wanted - len(self.seeds)))
        return replace(self, tasks=chosen, seeds=(*self.seeds, *more)[:wanted])

    def shrunk(self, **changes: Any) -> Protocol:
        """Return the quick version, which says that it is one."""
        return replace(self, quick=True, **changes)

    def plain(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def from_plain(values: Mapping[str, Any]) -> Protocol:
    """Build a protocol again from what :meth:`Protocol.plain` returned."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    fields["tasks"] = tuple(
        ProtocolTask(**{**task, "cameras": tuple(task.get("cameras", ()))}) for task in values["tasks"]
    )
    return Protocol(**fields)


def to_collect(train: int) -> int:
    """Return how many demonstrations to collect for ``train`` to train on: every tenth is held out, at least one.

    >>> to_collect(25), to_collect(100), to_collect(5)
    (27, 111, 6)
    """
    count = train + 1
    while count - max(1, count // 10) < train:
        count += 1
    return count


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
