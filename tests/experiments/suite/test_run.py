from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.experiments import cli
from rsp_robot.experiments.comparison.compare import compare
from rsp_robot.experiments.comparison.files import read_arms
from rsp_robot.experiments.evaluation import workers
from rsp_robot.experiments.protocols import find_protocol
from rsp_robot.experiments.suite.jobs import Encoder, Eta, Job, Place, SuitePlan, missing, name_encoders, read_plan
from rsp_robot.experiments.suite.keep import keep_suite
from rsp_robot.experiments.suite.run import SuiteConfig, choose_protocol, run_protocol, run_suite
from rsp_robot.experiments.suite.runner import run_in_processes
from rsp_robot.experiments.suite.work import is_done
from rsp_robot.files import read_json, read_jsonl, write_json

VIT = "random:vit-nano/8@16"


def scores(folder: Path) -> dict[str, Any]:
    """What the policy jobs of a suite found, without how long it took."""
    found = {str(path.parent.relative_to(folder)): read_json(path) for path in folder.glob("policy/*/*/*/score.json")}
    return {key: {"curve": score["curve"], "steps": score["steps"]} for key, score in found.items()}


# The plan


def plan(*seeds: int, data: str = "") -> SuitePlan:
    protocol = replace(find_protocol("honest"), seeds=seeds or (0,)).narrowed(
        ("metaworld/push-v3", "metaworld/assembly-v3")
    )
    return SuitePlan(protocol, {"rsp": Encoder("runs/rsp", "abc"), "blind": Encoder("none", "none")}, data=data)


def test_jobs_wait_for_what_they_need() -> None:
    jobs = {job.key: job for job in plan(0, 7).jobs()}
    assert len(jobs) == 2 + 2 + 2 * 2 * 2
    assert jobs["demonstrations/metaworld-push-v3"].after == ()
    assert jobs["embeddings/rsp/metaworld-push-v3"].after == ("demonstrations/metaworld-push-v3",)
    assert jobs["policy/rsp/metaworld-push-v3/seed-7"].after == ("embeddings/rsp/metaworld-push-v3",)
    assert jobs["policy/blind/metaworld-push-v3/seed-7"].after == ("demonstrations/metaworld-push-v3",)
    order = list(jobs)
    assert all(order.index(key) < order.index(job.key) for job in jobs.values() for key in job.after)


def test_a_pretraining_waits_for_every_task_and_only_its_own_encoder_for_it() -> None:
    given = replace(plan(), encoders={"mae": Encoder("pretrain:mae", "abc"), "other": Encoder("runs/rsp", "def")})
    jobs = {job.key: job for job in given.jobs()}
    shown = ("demonstrations/metaworld-push-v3", "demonstrations/metaworld-assembly-v3")
    assert jobs["pretraining/mae"].after == shown and "pretraining/other" not in jobs
    assert jobs["embeddings/mae/metaworld-push-v3"].after == (shown[0], "pretraining/mae")
    assert jobs["embeddings/other/metaworld-push-v3"].after == (shown[0],)
    alone = {job.key: job for job in replace(given, data="data").jobs()}
    assert alone["pretraining/mae"].after == ()
    order = list(jobs)
    assert all(order.index(key) < order.index(job.key) for job in jobs.values() for key in job.after)


def test_given_demonstrations_are_not_collected() -> None:
    kinds = [job.kind for job in plan(data="data").jobs()]
    assert "demonstrations" not in kinds and kinds.count("embeddings") == 2
    assert not any(key.startswith("demonstrations") for job in plan(data="data").jobs() for key in job.after)


def test_only_what_is_missing_is_left() -> None:
    jobs = plan(0, 1).jobs()
    done = {job.key for job in jobs if job.kind == "demonstrations"} | {
        f"policy/{name}/metaworld-push-v3/seed-{seed}" for name in ("rsp", "blind") for seed in (0, 1)
    }
    left = {job.key for job in missing(jobs, lambda job: job.key in done)}
    assert left == {"embeddings/rsp/metaworld-assembly-v3"} | {
        f"policy/{name}/metaworld-assembly-v3/seed-{seed}" for name in ("rsp", "blind") for seed in (0, 1)
    }
    assert missing(jobs, lambda job: job.kind == "policy") == ()


def test_a_plan_is_plain_values() -> None:
    whole = plan(0, 1, data="somewhere")
    assert read_plan(json.loads(json.dumps(whole.plain()))) == whole
    assert [whole.job(job.key) for job in whole.jobs()] == list(whole.jobs())


def test_what_is_left_is_estimated_by_kind() -> None:
    jobs = [
        Job("embeddings", "a", "e"),
        Job("policy", "a", "e", 0),
        Job("policy", "a", "e", 1),
        Job("policy", "a", "e", 2),
    ]
    eta = Eta(list(jobs), at_once=2)
    eta.finished(jobs[0], 1.0)
    assert eta.seconds is None
    eta.finished(jobs[1], 30.0)
    assert eta.seconds == 30.0


def test_encoders_have_names() -> None:
    assert name_encoders([f"rsp={VIT}", VIT, "none"]) == {"rsp": VIT, "random-vit-nano-8-16": VIT, "none": "none"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no encoders to compare"),
        (["rsp="], r"is not \[NAME=\]SPEC"),
        (["none", "none"], "two encoders are called 'none'; give one another name: other=none"),
    ],
)
def test_encoders_without_names_or_with_the_same_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        name_encoders(words)


# The run


def test_a_protocol_from_beginning_to_end(
    material: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    config = material.command(tmp_path, f"vit={VIT}", "oracle=state", seeds=1)
    protocol = material.PROTOCOL.narrowed(seeds=1)
    summary = run_protocol(protocol, config)
    said = capsys.readouterr().out
    assert "toy: last checkpoint, declared beforehand; outcome: success at the last step" in said
    assert "toy: max over training (as published)" in said and "QUICK" not in said
    folder = tmp_path / "suite"
    assert summary == folder / "suite.json"
    found = read_json(summary)
    assert found["headline"] == "max over training (as published)"
    last = {arm["name"]: arm for arm in found["last_checkpoint"]["arms"]}
    best = {arm["name"]: arm for arm in found["max_over_training_as_published"]["encoders"]}
    curves = {key.split("/")[1]: score["curve"] for key, score in scores(folder).items()}
    steps = 30 * -(-36 * material.HORIZON // 32)
    for name in ("vit", "oracle"):
        assert [step for step, _ in curves[name]] == [steps // 3, 2 * steps // 3, steps]
        assert last[name]["tasks"][0]["rate"] == pytest.approx(curves[name][-1][1])
        assert best[name]["mean"] == max(score for _, score in curves[name])
    assert curves["oracle"][-1][1] >= 0.75
    rows = read_jsonl(folder / "seed-0" / "evaluation.jsonl")
    assert [row["policy"] for row in rows] == ["vit"] * 4 + ["oracle"] * 4
    assert all(row["score"] == float(row["success_at_end"]) and row["length"] == material.HORIZON for row in rows)
    stored = read_json(folder / "seed-0" / "evaluation.plan.json")
    assert (stored["protocol"], stored["score"]) == ("toy", "success at the last step")

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("score.json")}
    run_protocol(protocol, config)
    assert "2 of 2 policies are there already, 0 jobs to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("score.json")} == before


def test_its_rows_are_read_by_compare(material: Any, tmp_path: Path) -> None:
    # An outcome that is often unlike success at any step: it has to hold at more than half of them.
    tasks = (replace(material.PROTOCOL.tasks[0], lasting=material.HORIZON // 2),)
    protocol = replace(material.PROTOCOL, tasks=tasks, score="lasting", headline="last", evaluate_every=0)
    summary = run_protocol(protocol, material.command(tmp_path))
    rows = read_jsonl(tmp_path / "suite" / "seed-0" / "evaluation.jsonl")
    assert any(row["score"] != float(row["success_once"]) for row in rows)
    table = compare(read_arms([str(tmp_path / "suite")], None, []))
    assert table.settings["toy/reach"]["score"] == protocol.score_in_words
    assert [(arm.name, arm.seeds, arm.tasks[0].episodes) for arm in table.arms] == [("oracle", 2, 8), ("none", 2, 8)]
    stored = read_json(summary)["last_checkpoint"]["arms"]
    assert [arm.tasks[0].rate for arm in table.arms] == [arm["tasks"][0]["rate"] for arm in stored]
    assert "max_over_training_as_published" not in read_json(summary)
    assert cli.main(["compare", str(tmp_path / "suite")]) == 0
    assert cli.main(["report", str(tmp_path / "suite")]) == 0
    assert (tmp_path / "suite" / "report.html").is_file()


def test_jobs_of_one_process_share_the_simulation_processes(
    material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[workers.Worker] = []
    start = workers.Worker.__init__

    def noted(worker: workers.Worker) -> None:
        started.append(worker)
        start(worker)

    monkeypatch.setattr(workers.Worker, "__init__", noted)
    protocol = replace(material.PROTOCOL, epochs=1, evaluate_every=0, headline="last")
    run_protocol(protocol, material.command(tmp_path, "oracle=state", "none"))
    assert len(scores(tmp_path / "suite")) == 4
    assert len(started) == 1 and started[0].process.returncode == 0


def test_a_protocol_may_name_whom_all_are_compared_with(material: Any, tmp_path: Path) -> None:
    protocol = replace(material.PROTOCOL, epochs=1, evaluate_every=0, headline="last", against=("none", "absent"))
    summary = run_protocol(protocol, material.command(tmp_path, "oracle=state", "none", f"vit={VIT}"))
    pairs = read_json(summary)["last_checkpoint"]["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("oracle", "none"), ("vit", "none")]
    every = run_protocol(replace(protocol, against=()), material.command(tmp_path, "oracle=state", "none"))
    assert len(read_json(every)["last_checkpoint"]["pairs"]) == 1, (
        "the same folder: nothing that was played depends on it"
    )


def test_what_is_kept_of_it_gives_the_same_numbers_and_no_paths(
    material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = f"vit={FrozenEncoder.load(VIT).save(tmp_path / 'encoders' / 'vit')}"
    protocol = replace(material.PROTOCOL, epochs=4, evaluate_every=2)
    run_protocol(protocol, material.command(tmp_path, vit, "none"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["suite", "keep", "suite", "--out", "kept"]) == 0
    kept = {path.relative_to(tmp_path / "kept"): path for path in Path("kept").resolve().rglob("*") if path.is_file()}
    names = [f"seed-{seed}/evaluation.{end}" for seed in (0, 1) for end in ("jsonl.gz", "plan.json")]
    assert sorted(map(str, kept)) == [*sorted(names), "suite.json"]
    assert str(tmp_path) not in "".join(path.read_text() for path in kept.values() if path.suffix == ".json")
    assert sum(path.stat().st_size for path in kept.values()) < 30_000
    for folder in ("suite", "kept"):
        assert cli.main(["compare", folder, "--out", f"{folder}.json"]) == 0
        assert cli.main(["report", folder, "--out", f"{folder}.html", "--csv", f"{folder}.csv"]) == 0
    assert Path("kept.csv").read_text() == Path("suite.csv").read_text() != ""
    assert cli.main(["compare", "kept/seed-0", "--out", "one.json"]) == 0
    whole, again = read_json(Path("suite.json")), read_json(Path("kept.json"))
    assert whole["pairs"] == again["pairs"]
    assert [arm["aggregates"] for arm in whole["arms"]] == [arm["aggregates"] for arm in again["arms"]]
    before = {name: path.read_bytes() for name, path in kept.items()}
    assert cli.main(["suite", "keep", "suite", "--out", "kept"]) == 0
    assert {name: path.read_bytes() for name, path in kept.items()} == before
    for folder, cause in (("encoders", "holds no finished suite"), ("suite", "holds something else")):
        with pytest.raises(UserError, match=cause):
            keep_suite(Path(folder), tmp_path / "encoders")


def test_more_seeds_and_encoders_may_join(material: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = replace(material.PROTOCOL, epochs=4, evaluate_every=0, headline="last")
    run_protocol(protocol.narrowed(seeds=1), material.command(tmp_path, "none"))
    run_protocol(protocol, material.command(tmp_path, "oracle=state", "none"))
    assert "1 of 4 policies are there already, 3 jobs to do" in capsys.readouterr().err


@pytest.mark.slow
def test_jobs_side_by_side_find_the_same(material: Any, tmp_path: Path) -> None:
    protocol = replace(material.PROTOCOL, epochs=10, evaluate_every=5)
    run_protocol(protocol, material.command(tmp_path, "none"))
    run_protocol(protocol, material.command(tmp_path, "none", out=tmp_path / "both", at_once=2))
    assert len(scores(tmp_path / "suite")) == 2
    assert scores(tmp_path / "both") == scores(tmp_path / "suite")
    assert "evaluate" in next((tmp_path / "both" / "logs").glob("policy-*.log")).read_text()


def test_after_a_kill_it_goes_on_and_finds_the_same(material: Any, tmp_path: Path) -> None:
    protocol = replace(material.PROTOCOL, epochs=10, evaluate_every=5)
    run_protocol(protocol, material.command(tmp_path, "none", out=tmp_path / "undisturbed"))
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from dataclasses import replace\nfrom pathlib import Path\nimport suite_material as material\n"
        "from rsp_robot.experiments.suite.run import run_protocol\n"
        f"run_protocol(replace(material.PROTOCOL, epochs=10, evaluate_every=5), "
        f"material.command(Path({str(tmp_path)!r}), 'none'))\n"
    )
    first = tmp_path / "suite" / "policy" / "none" / "toy-reach" / "seed-0" / "score.json"
    killed = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not first.exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert killed.returncode == -9 and len(scores(tmp_path / "suite")) == 1
    stamp = first.stat().st_mtime_ns
    run_protocol(protocol, material.command(tmp_path, "none"))
    assert scores(tmp_path / "suite") == scores(tmp_path / "undisturbed")
    assert first.stat().st_mtime_ns == stamp


def test_a_job_whose_process_dies_is_begun_again(material: Any, tmp_path: Path) -> None:
    place, whole = ready(material, tmp_path, "none")
    endings = run_in_processes(place, whole.jobs(), at_once=1, attempts=2)

    def shoot() -> None:
        """Kill the first process that works on a job."""
        while not (place.work(whole.jobs()[0]) / ".lock").exists():
            time.sleep(0.01)
        os.kill(children()[0], signal.SIGKILL)

    thread = threading.Thread(target=shoot)
    thread.start()
    (ended,) = endings
    thread.join()
    assert not ended.error and is_done(place, whole, ended.job)


def children() -> list[int]:
    """The processes that this one started."""
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def ready(material: Any, folder: Path, spec: str) -> tuple[Place, SuitePlan]:
    """A folder with a plan of one policy in it."""
    protocol = replace(material.PROTOCOL, epochs=4, evaluate_every=0, headline="last").narrowed(seeds=1)
    place, whole = (
        Place(folder / "suite"),
        SuitePlan(protocol, {"one": Encoder(spec, spec)}, str(folder / "data"), workers=1),
    )
    write_json(place.plan, whole.plain())
    return place, whole


def test_a_job_that_fails_does_not_keep_the_others(material: Any, tmp_path: Path) -> None:
    material.demonstrate(tmp_path / "data", "raise")
    tasks = tuple(replace(material.PROTOCOL.tasks[0], task=f"toy/{name}") for name in ("raise", "reach"))
    protocol = replace(material.PROTOCOL, tasks=tasks, epochs=4, evaluate_every=0, headline="last").narrowed(seeds=1)
    with pytest.raises(
        UserError, match="policy/none/toy-raise/seed-0: no episode of toy/raise could be played .*the solver"
    ):
        run_protocol(protocol, material.command(tmp_path, "none"))
    assert list(scores(tmp_path / "suite")) == ["policy/none/toy-reach/seed-0"]


def test_a_quick_run_says_so_everywhere(material: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = replace(material.PROTOCOL, epochs=4, evaluate_every=2).narrowed(seeds=1).shrunk()
    summary = run_protocol(quick, material.command(tmp_path, "none"))
    said = capsys.readouterr()
    assert "toy (quick): last checkpoint" in said.out and "toy (quick): max over training" in said.out
    assert "QUICK: shrunk to minutes" in said.out and "toy (quick): 0 of 1" in said.err
    assert read_json(summary)["protocol"] == "toy (quick)" and read_json(summary)["quick"] is True
    whole = replace(quick, quick=False)
    run_protocol(whole, material.command(tmp_path, "none", out=tmp_path / "whole"))
    arms = read_arms([f"a={tmp_path}/suite/seed-0", f"b={tmp_path}/whole/seed-0"], None, [])
    with pytest.raises(UserError, match=r"protocol is toy \(quick\)"):
        compare(arms)


def test_returns_are_scores_too(material: Any, tmp_path: Path) -> None:
    protocol = replace(
        material.PROTOCOL, score="return", largest_return=-20.0, proprio=False, epochs=4, evaluate_every=2
    )
    found = read_json(run_protocol(protocol, material.command(tmp_path, "oracle=state", f"vit={VIT}")))
    rows = read_jsonl(tmp_path / "suite" / "seed-0" / "evaluation.jsonl")
    assert [row["score"] for row in rows] == pytest.approx([min(1, row["return"] / -20) for row in rows])
    both = [read_jsonl(tmp_path / "suite" / f"seed-{seed}" / "evaluation.jsonl") for seed in (0, 1)]
    of_oracle = [row["score"] for rows in both for row in rows if row["policy"] == "oracle"]
    assert found["last_checkpoint"]["arms"][0]["tasks"][0]["rate"] == pytest.approx(np.mean(of_oracle))


# Refusals


def test_other_settings_in_the_same_folder_are_refused(material: Any, tmp_path: Path) -> None:
    protocol = replace(material.PROTOCOL, epochs=4, evaluate_every=0, headline="last").narrowed(seeds=1)
    run_protocol(protocol, material.command(tmp_path, "none"))
    with pytest.raises(UserError, match=r"holds a suite with other settings \(episodes 4 instead of 5\)"):
        run_protocol(replace(protocol, episodes=5), material.command(tmp_path, "none"))
    with pytest.raises(UserError, match="was made with another encoder; give another --out"):
        run_protocol(protocol, material.command(tmp_path, "none=state"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, r"nobody demonstrates toy/reach; train an expert, rsp-robot rl toy/reach --encoder state"),
        ({"data": Path("nowhere")}, "toy-reach.hdf5 does not exist; --data needs"),
        ({"encoder": ("vit=random:vit-nono",)}, "vit-nono"),
        ({"at_once": 0}, "must be at least 1"),
    ],
)
def test_what_would_fail_later_fails_at_once(
    material: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_protocol(material.PROTOCOL, replace(material.command(tmp_path), **change))
    assert not (tmp_path / "suite").exists()


def test_given_demonstrations_that_differ_are_told(
    material: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = replace(material.PROTOCOL, demonstrations=25, epochs=4, evaluate_every=0, headline="last").narrowed(
        seeds=1
    )
    summary = run_protocol(protocol, material.command(tmp_path, "none"))
    note = "toy/reach: demonstrations to train on 36 as given, the protocol has 25"
    assert f"note: {note}" in capsys.readouterr().err
    assert read_json(summary)["notes"] == [note]


def test_a_policy_that_neither_sees_nor_feels_is_refused(material: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy has no proprioception: without eyes nothing is left"):
        run_protocol(replace(material.PROTOCOL, proprio=False), material.command(tmp_path))


def test_a_folder_of_something_else_is_left_alone(material: Any, tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no suite"):
        run_protocol(material.PROTOCOL, material.command(tmp_path))


def test_a_quick_run_of_any_task_of_the_protocol() -> None:
    quick = choose_protocol(SuiteConfig("cortexbench-metaworld", ("none",), quick=True, tasks=("metaworld/hammer-v3",)))
    assert [task.task for task in quick.tasks] == ["metaworld/hammer-v3"] and quick.quick
    with pytest.raises(UserError, match="unknown camera of metaworld/"):
        choose_protocol(SuiteConfig("honest", ("none",), cameras=("top_cap2",)))
    with pytest.raises(UserError, match="unknown protocol 'honst'; did you mean honest"):
        run_suite(SuiteConfig("honst", ("none",)))


@pytest.mark.parametrize("words", [["list"], ["show", "cortexbench-metaworld"], ["show", "honest", "--quick"]])
def test_protocols_can_be_looked_at(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["suite", *words]) == 0
    said = capsys.readouterr().out
    assert words[-1].lstrip("-") in said or "honest" in said
    if "cortexbench-metaworld" in words:
        assert "top_cap2" in said and "not as in the original: camera corner2" in said
