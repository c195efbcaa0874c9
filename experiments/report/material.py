"""What a report is made from: rows, training runs, films and pictures, found behind the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.compare import Table, compare
from rsp_robot.experiments.comparison.files import Run, or_packed, read_arms, split_word, unpacked
from rsp_robot.experiments.comparison.results import Arm, Summary, summarise
from rsp_robot.experiments.report.media import Film, find_films
from rsp_robot.experiments.report.pretraining import is_pretraining
from rsp_robot.files import read_json


@dataclass(frozen=True)
class TrainingRun:
    """A run folder of behaviour cloning or reinforcement learning."""

    arm: str
    folder: Path


@dataclass(frozen=True)
class Record:
    """What was written down beside rows: how they came about."""

    path: Path
    document: Mapping[str, Any]

    def mapping(self, key: str) -> dict[str, Any]:
        """A mapping of the document; empty where there is none."""
        value = self.document.get(key)
        return dict(value) if isinstance(value, Mapping) else {}

    def text(self, key: str) -> str:
        """A text of the document; empty where there is none."""
        value = self.document.get(key)
        return value if isinstance(value, str) else ""

    def arms(self) -> dict[str, Arm]:
        """How the policies are called, by name."""
        found = {}
        listed = self.document.get("arms")
        for entry in listed if isinstance(listed, list) else []:
            if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
                texts = {key: str(entry.get(key) or "") for key in ("label", "description", "phrase")}
                found[entry["name"]] = Arm(entry["name"], **(texts | {"label": texts["label"] or entry["name"]}))
        return found


@dataclass(frozen=True)
class Material:
    """Everything that a page shows. What is empty has no section."""

    words: tuple[str, ...]
    """As they were given: they make the same page again."""
    arms: tuple[Arm, ...]
    """Policies with rows first, then those with learning curves only; the place of one is its colour."""
    runs: Mapping[str, Sequence[Run]]
    """The rows of each arm."""
    table: Table | None
    """Every number of the rows."""
    summary: Summary | None
    """The same, and the counts of the pairs, where every arm is one policy on one task."""
    training: tuple[TrainingRun, ...]
    pretraining: tuple[Path, ...]
    """Run folders."""
    films: tuple[Film, ...]
    records: tuple[Record, ...]

    def index(self, arm: str) -> int:
        """The place of the arm called ``arm``."""
        return next(place for place, one in enumerate(self.arms) if one.name == arm)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``."""
        return self.arms[self.index(name)]


@dataclass(frozen=True)
class Place:
    """What lies behind one path."""

    path: Path
    policy: str
    """The one that the word picks; empty for all."""
    rows: bool
    training: tuple[Path, ...]
    pretraining: tuple[Path, ...]


def gather(words: Sequence[str], *, allow_mismatch: bool = False) -> Material:
    """Find and read everything that the words name.

    Args:
        words: ``[NAME=]PATH[:POLICY][,PATH...]`` as ``rsp-robot compare`` takes them, where a path may also be a run
            folder of ``quickstart``, ``pretrain``, ``bc`` or ``rl``.
        allow_mismatch: put rows beside each other that were not made alike, unpaired.

    Raises:
        UserError: there is nothing behind a path, a file cannot be used, or the rows cannot be compared.
    """
    named = []
    for word in words:
        name, paths = split_word(word)
        named.append((name, [look_into(path, policy) for path, policy in paths]))
    runs, table = _read_rows(named, allow_mismatch)
    records = tuple(_records(runs))
    known = {key: arm for record in records for key, arm in record.arms().items()}
    arms = {name: _present(name, of_arm, known) for name, of_arm in runs.items()}
    training = tuple(
        TrainingRun(name or _arm_of(folder, place, runs), folder)
        for name, places in named
        for place in places
        for folder in place.training
    )
    arms |= {run.arm: Arm(run.arm, run.arm) for run in training if run.arm not in arms}
    places = [place for _, found in named for place in found]
    return Material(
        words=tuple(words),
        arms=tuple(arms.values()),
        runs=runs,
        table=table,
        summary=_summarise(runs, table, arms),
        training=training,
        pretraining=tuple(dict.fromkeys(folder for place in places for folder in place.pretraining)),
        films=tuple(_films(places, runs)),
        records=records,
    )


def look_into(path: Path, policy: str = "") -> Place:
    """Say what lies behind ``path``.

    Raises:
        UserError: nothing that can be reported on.
    """
    path = or_packed(path)
    if path.is_file():
        if path.suffix not in (".jsonl", ".gz", ".json"):
            raise UserError(f"{path} holds no results; give rows (*.jsonl), a results.json or a run folder")
        return Place(path, policy, True, (), ())
    if not path.is_dir():
        raise UserError(f"{path} does not exist; check the path, or finish the run first")
    rows = (path / "results.json").is_file() or any(path.glob("*.plan.json"))
    alone = is_pretraining(path) or (path / "metrics.jsonl").is_file()
    folders = [path] if alone else sorted(child for child in path.iterdir() if child.is_dir())
    pretraining = tuple(folder for folder in folders if is_pretraining(folder))
    training = tuple(f for f in folders if f not in pretraining and (f / "metrics.jsonl").is_file())
    if not rows and not training and not pretraining:
        raise UserError(
            f"{path} holds nothing to report on: no results.json, no rows with their plan, no metrics.jsonl; "
            "finish the run first, or give its folder"
        )
    return Place(path, policy, rows, training, pretraining)


def _read_rows(
    named: Sequence[tuple[str, Sequence[Place]]], allow_mismatch: bool
) -> tuple[dict[str, list[Run]], Table | None]:
    """The runs of each arm on the tasks that all arms share, and the comparison."""
    words = []
    for name, places in named:
        paths = [f"{place.path}:{place.policy}" if place.policy else str(place.path) for place in places if place.rows]
        if paths:
            words.append((f"{name}=" if name else "") + ",".join(paths))
    if not words:
        return {}, None
    notes: list[str] = []
    runs = read_arms(words, None, notes)
    table = compare(runs, allow_mismatch=allow_mismatch, notes=notes)
    shared = set(table.tasks)
    return {name: [run for run in of_arm if run.task in shared] for name, of_arm in runs.items()}, table


def _summarise(runs: Mapping[str, Sequence[Run]], table: Table | None, arms: Mapping[str, Arm]) -> Summary | None:
    if table is None or len(table.tasks) > 1 or any(arm.seeds > 1 for arm in table.arms):
        return None
    if not all(pair.difference.paired for pair in table.pairs):
        return None
    rows = [row | {"policy": name} for name, of_arm in runs.items() for run in of_arm for row in run.rows.values()]
    return summarise(rows, [arms[name] for name in runs])


def _records(runs: Mapping[str, Sequence[Run]]) -> list[Record]:
    """What lies beside the rows of each source, once."""
    found = []
    for path in dict.fromkeys(run.source.path for of_arm in runs.values() for run in of_arm):
        file = path if path.suffix == ".json" else unpacked(path).with_suffix(".results.json")
        document = read_json(file) if file.is_file() else {}
        found.append(Record(path, document if isinstance(document, dict) else {}))
    return found


def _present(name: str, runs: Sequence[Run], known: Mapping[str, Arm]) -> Arm:
    """How an arm is presented: as its file calls the policy, unless the command line gave it a name of its own."""
    return known[name] if name in known and all(run.policy == name for run in runs) else Arm(name, name)


def _arm_of(folder: Path, place: Place, runs: Mapping[str, Sequence[Run]]) -> str:
    """The arm whose policy a training run made: by its fingerprint, by the rows in its folder, or by its name."""
    made = policy_config(folder).get("fingerprint")
    for name, of_arm in runs.items():
        if any(made and run.source.fingerprints.get(run.policy) == made for run in of_arm):
            return name
    inside = [name for name, of_arm in runs.items() if any(run.source.path.parent == folder for run in of_arm)]
    if len(inside) == 1 and folder == place.path:
        return inside[0]
    short = folder.resolve().name
    return short.removeprefix("bc-") if short.removeprefix("bc-") in runs else short


def policy_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of the policy that a training run made; empty where there is none."""
    path = folder / "policy" / "config.json"
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _films(places: Sequence[Place], runs: Mapping[str, Sequence[Run]]) -> list[Film]:
    """The films beside the rows, of the policies that are reported on."""
    films: dict[Path, Film] = {}
    for name, of_arm in runs.items():
        for run in of_arm:
            for film in find_films(run.source.path.parent / "media", run.policy, run.task, name):
                films.setdefault(film.path.resolve(), film)
    return list(films.values())
