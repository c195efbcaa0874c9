"""What ``rsp-robot compare`` reads: rows files with their plans, results files, and the runs of each policy in them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.results import load_results
from rsp_robot.experiments.evaluation.plan import plan_path
from rsp_robot.files import read_json
from rsp_robot.versions import SIMULATORS

Row = dict[str, Any]
SETTINGS = ("horizon", "image_size", "quality", "stop_on_success", "protocol", "score", "cameras")
NEEDED = ("policy", "task", "seed", "initial_state", "success_once")


@dataclass(frozen=True)
class Source:
    """One file of rows."""

    path: Path
    rows: tuple[Row, ...]
    settings: dict[str, Any]
    """What decides whether two success rates may be compared: :data:`SETTINGS` and ``version of NAME``; what is not
    known is not there."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """By policy, where they are known."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """What the plan says beyond that of each task, and of each policy in it."""

    @property
    def policies(self) -> list[str]:
        """Names of the policies, in the order of their first row."""
        return list(dict.fromkeys(row["policy"] for row in self.rows))


@dataclass(frozen=True)
class Run:
    """One trained policy on one task."""

    task: str
    source: Source
    policy: str
    rows: dict[int, Row]
    """By seed of the start state."""


def read_source(path: Path, notes: list[str]) -> Source:
    """Read a rows file, a results file or the run folder that holds one; what is remarkable goes to ``notes``.

    Raises:
        UserError: there is no such file, it is of another kind or version, its plan is missing, or a folder holds
            several evaluations.
    """
    file = _find(path)
    if file.suffix in (".jsonl", ".gz"):
        rows = _read_lines(file, notes)
        plan_file = plan_path(unpacked(file))
        if not plan_file.exists():
            raise UserError(f"{plan_file} is missing, so the settings of {file} are unknown; copy it there too")
        plan = read_json(plan_file)
    else:
        results = load_results(file)
        rows = [dict(row) for row in results.rows]
        plan_file, plan = _plan_of_results(file, results.config, results.versions)
    if not isinstance(plan, dict) or not isinstance(plan.get("versions", {}), dict):
        raise UserError(f"{plan_file} is not the plan of an evaluation; evaluate again")
    if not rows:
        raise UserError(f"{file} holds no rows; run the evaluation first")
    for number, row in enumerate(rows):
        _check(file, number, row)
    fingerprints = plan.get("policies")
    joint = isinstance(plan.get("tasks"), dict)  # a plan of several tasks says more about each of them
    return Source(
        path=file,
        rows=tuple(rows),
        settings=_settings(plan),
        fingerprints=dict(fingerprints) if isinstance(fingerprints, dict) and not joint else {},
        plan=plan if joint else {},
    )


def runs_of(source: Source, policy: str) -> list[Run]:
    """Return what ``policy`` did on each task in ``source``.

    An episode that failed for an error and was played again counts once; errors that remain stay error rows.

    Raises:
        UserError: an episode is there twice with different outcomes.
    """
    tasks: dict[str, dict[int, Row]] = {}
    for row in source.rows:
        if row["policy"] != policy:
            continue
        row = counted(row)
        episodes = tasks.setdefault(row["task"], {})
        before = episodes.get(row["seed"])
        if before is None or before.get("error"):
            episodes[row["seed"]] = row
        elif not row.get("error") and any(before[key] != row[key] for key in NEEDED):
            raise UserError(
                f"{source.path} has {row['task']} seed {row['seed']} twice for {policy!r}, with different outcomes; "
                "evaluate into a new file"
            )
    return [Run(task, _narrow(source, policy, task), policy, rows) for task, rows in tasks.items()]


def counted(row: Row) -> Row:
    """Return the row with what counts as its outcome in ``success_once``.

    That is success at any step, unless the row has a ``score``: the outcome by the definition of its protocol, in
    [0, 1].
    """
    score = row.get("score")
    if score is None:
        return row
    return row | {"success_once": bool(score) if score in (0, 1) else score}


def split_word(word: str) -> tuple[str, list[tuple[Path, str]]]:
    """Split ``[NAME=]PATH[:POLICY][,PATH...]`` into the name and ``(path, policy)``, each empty where there is none.

    >>> split_word("rsp=a.jsonl,b.jsonl:rsp-1")
    ('rsp', [(PosixPath('a.jsonl'), ''), (PosixPath('b.jsonl'), 'rsp-1')])

    Raises:
        UserError: a path is empty.
    """
    name, _, rest = word.partition("=") if "=" in word and not Path(word).exists() else ("", "", word)
    parts = [rest] if Path(rest).exists() else rest.split(",")
    if not all(parts) or ("=" in word and rest != word and not name):
        raise UserError(
            f"{word!r} is not [NAME=]PATH[:POLICY][,PATH...]; write, for example, rsp=seed0.jsonl,seed1.jsonl"
        )
    found = []
    for part in parts:
        path, _, policy = part.rpartition(":") if ":" in part and not Path(part).exists() else (part, "", "")
        found += [(place, policy) for place in seed_folders(Path(path))]
    return name, found


def seed_folders(path: Path) -> list[Path]:
    """Return the rows files of the folder of a ``rsp-robot suite run``, one per training seed; else the path itself."""
    summary = path / "suite.json"
    if not summary.is_file():
        return [path]
    return [path / rows for rows in read_json(summary)["rows"]]


def read_arms(words: Sequence[str], policy: str | None, notes: list[str]) -> dict[str, list[Run]]:
    """Return the runs of each arm, in the order of the words.

    A single word without a name makes an arm of each policy in its files; several words are an arm each, whose policy
    is the only one in the file, or the one asked for, or the one called like the arm.

    Raises:
        UserError: a file cannot be read, does not say which policy is meant, or is there twice in one arm.
    """
    split = [split_word(word) for word in words]
    cache: dict[Path, Source] = {}
    for _, paths in split:
        for path, _ in paths:
            if path not in cache:
                cache[path] = read_source(path, notes)
    arms: dict[str, list[Run]] = {}
    if len(split) == 1 and not split[0][0] and policy is None and not any(chosen for _, chosen in split[0][1]):
        sources = [cache[path] for path, _ in split[0][1]]
        for name in dict.fromkeys(name for source in sources for name in source.policies):
            arms[name] = [run for source in sources for run in runs_of(source, name)]
    else:
        for word, (name, paths) in zip(words, split, strict=True):
            picked = [(cache[path], _pick(cache[path], name, policy, chosen)) for path, chosen in paths]
            label = name or _label(picked, arms)
            if label in arms:
                raise UserError(f"two policies are called {label!r}; give one another name: other={word}")
            arms[label] = [run for source, choice in picked for run in runs_of(source, choice)]
    for name, runs in arms.items():
        _refuse_copies(name, runs)
    return arms


def or_packed(path: Path) -> Path:
    """Return ``path``, or the compressed rows of that name that ``rsp-robot suite keep`` left in its place."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.exists() else path


def unpacked(path: Path) -> Path:
    """Return ``path`` by the name that it had before it was compressed.

    >>> unpacked(Path("evaluation.jsonl.gz"))
    PosixPath('evaluation.jsonl')
    """
    return path.with_suffix("") if path.suffix == ".gz" else path


def _find(path: Path) -> Path:
    if not path.is_dir():
        path = or_packed(path)
        if not path.is_file():
            raise UserError(f"{path} does not exist; check the path, or finish the evaluation first")
        return path
    if (path / "results.json").is_file():
        return path / "results.json"
    plans = sorted(path.glob("*.plan.json"))
    if len(plans) > 1:
        raise UserError(f"{path} holds two plans, {plans[0].name} and {plans[1].name}; name one of their .jsonl files")
    rows = [or_packed(path / plan.name.replace(".plan.json", ".jsonl")) for plan in plans]
    if not rows or not rows[0].is_file():
        raise UserError(f"{path} holds neither results.json nor rows with their plan; finish the evaluation first")
    return rows[0]


def _read_lines(file: Path, notes: list[str]) -> list[Row]:
    rows: list[Row] = []
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file} is damaged ({error}); keep the rows again") from None
    # A row may hold U+2028 within a text, which splitlines() would take for the end of the line.
    lines = content.decode("utf-8", errors="replace").split("\n")
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            where = "the last line" if number == last else f"line {number + 1}"
            notes.append(f"{file}: {where} was cut off and is left out; the same evaluation again plays it")
    return rows


def _check(file: Path, number: int, row: Any) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{file}, row {number}, is no row of an evaluation; give a file that rsp-robot evaluate wrote")
    missing = [key for key in NEEDED if key not in row]
    if missing:
        raise UserError(f"{file}, row {number}, has no {missing[0]!r}: another or an older format; evaluate again")
    if not row.get("error") and not isinstance(row["success_once"], bool):
        raise UserError(f"{file}, row {number}, has no true or false in 'success_once'; evaluate again")


def _plan_of_results(file: Path, config: Mapping[str, Any], versions: Mapping[str, str]) -> tuple[Path, Any]:
    """The plan beside a results file, which knows every setting, or what the results file says itself."""
    stem = file.name.removesuffix(".json").removesuffix("results").rstrip(".") or "evaluation"
    beside = file.with_name(f"{stem}.plan.json")
    if beside.is_file():
        return beside, read_json(beside)
    inner = config.get("evaluation", config)
    known = dict(inner) if isinstance(inner, Mapping) else {}
    return file, known | {"versions": dict(versions), "policies": {}}


def _settings(plan: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: plan[key] for key in SETTINGS if plan.get(key) is not None}
    found = plan.get("versions", {})
    return settings | {f"version of {name}": found[name] for name in SIMULATORS if found.get(name)}


def _narrow(source: Source, policy: str, task: str) -> Source:
    """Add to the settings of a file those of one policy in one task."""
    if not source.plan:
        return source
    record = source.plan["policies"].get(policy, {}).get(task, {})
    seen = {key: value for key, value in record.items() if value != []}  # a blind policy has no cameras
    return replace(
        source,
        settings=source.settings | _settings(source.plan["tasks"].get(task, {})) | _settings(seen),
        fingerprints={policy: record.get("fingerprint", "")},
    )


def _pick(source: Source, name: str, policy: str | None, chosen: str) -> str:
    """The policy that an arm called ``name`` takes from ``source``: the one ``chosen`` by its path, if any."""
    there = source.policies
    if chosen:
        if chosen not in there:
            raise UserError(f"{source.path} holds no policy {chosen!r}; it has {', '.join(there)}")
        return chosen
    if len(there) == 1:
        return there[0]
    for wanted in (policy, name):
        if wanted in there:
            return str(wanted)
    asked = policy or name
    raise UserError(
        f"{source.path} holds the policies {', '.join(there)}" + (f" and no {asked!r}" if asked else "")
        + "; pick one, for example " + f"{source.path}:{there[0]}"
    )  # fmt: skip


def _label(picked: Sequence[tuple[Source, str]], taken: Mapping[str, Any]) -> str:
    """Name of an arm that was given none: its policy's, or where that is taken, the file's."""
    source, policy = picked[0]
    if policy not in taken:
        return policy
    stem = source.path.name.split(".")[0]
    return source.path.resolve().parent.name if stem in ("evaluation", "results") else stem


def _refuse_copies(name: str, runs: Sequence[Run]) -> None:
    """Refuse one policy as two training seeds: it would pass for evidence about training again."""
    seen: dict[tuple[str, str], Run] = {}
    for run in runs:
        mark = run.source.fingerprints.get(run.policy) or f"{run.source.path.resolve()} {run.policy}"
        before = seen.setdefault((run.task, mark), run)
        if before is not run:
            raise UserError(
                f"{before.policy!r} in {before.source.path} and {run.policy!r} in {run.source.path} are the same "
                f"policy on {run.task}, given as two training seeds of {name!r}; leave one out"
            )
