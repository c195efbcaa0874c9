from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments import cli
from rsp_robot.experiments.comparison.compare import compare
from rsp_robot.experiments.comparison.files import read_arms
from rsp_robot.experiments.comparison.results import Arm, Results, save_results
from rsp_robot.experiments.comparison.wording import percent, percent_interval
from rsp_robot.experiments.report.chart import SIDE, Axis, Curve, chart
from rsp_robot.experiments.report.learning import over_seeds
from rsp_robot.experiments.report.markup import ARM_COLOURS, line_class
from rsp_robot.experiments.report.material import gather
from rsp_robot.experiments.report.page import build_page
from rsp_robot.experiments.report.pretraining_steps import pretrained_arms
from rsp_robot.experiments.report.verdict import verdict
from rsp_robot.files import append_jsonl, write_json, write_text

TASKS = ("toy/reach", "toy/leave")
Rates = dict[str, float]


def write_rows(path: Path, rates: Rates, task: str = "toy/reach", seed: int = 0, n: int = 20, **plan: Any) -> Path:
    """Rows and plan of made-up policies on shared start states."""
    rng = np.random.default_rng(seed)
    for name, rate in rates.items():
        for i, solved in enumerate(rng.permutation(n) < round(rate * n)):
            append_jsonl(path, {
                "policy": name, "task": task, "episode": i, "seed": 100 + i, "initial_state": f"{task} {i}",
                "success_once": bool(solved), "success_at_end": bool(solved), "first_success": 5 + i, "error": None,
            })  # fmt: skip
    settings = {"horizon": 12, "versions": {"mujoco": "3.3.0"}, "policies": {p: f"{path}-{p}" for p in rates}}
    write_json(path.with_suffix(".plan.json"), settings | plan)
    return path


def write_run(folder: Path, losses: Sequence[float], config: str = "head: mlp\n", **policy: Any) -> Path:
    """A training run with its policy folder."""
    write_text(folder / "config.yaml", config)
    for step, loss in enumerate(losses):
        append_jsonl(folder / "metrics.jsonl", {"step": 10 * step, "loss": loss})
    if policy:
        write_json(folder / "policy" / "config.json", policy)
    return folder


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Two arms, two tasks, two training seeds, and their training runs."""
    rates = {"rsp": 0.8, "blind": 0.3}
    for seed in range(2):
        for task in TASKS:
            write_rows(tmp_path / f"{seed}-{task[4:]}.jsonl", rates, task, seed)
    found = []
    for name in rates:
        paths = [f"{tmp_path}/{seed}-{task[4:]}.jsonl:{name}" for seed in range(2) for task in TASKS]
        runs = [write_run(tmp_path / f"bc-{name}-{seed}", [2.0 + seed, 1.0 + seed]) for seed in range(2)]
        found.append(f"{name}=" + ",".join([*paths, *map(str, runs)]))
    return found


def plain(page: str) -> str:
    """The page's text, with ordinary spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)).replace(
        "\xa0", " "
    )


# What is found


def test_rows_and_runs_of_one_name_are_one_arm(words: list[str]) -> None:
    material = gather(words)
    assert [arm.name for arm in material.arms] == ["rsp", "blind"]
    assert [run.arm for run in material.training] == ["rsp", "rsp", "blind", "blind"]
    assert material.table is not None
    assert [arm.seeds for arm in material.table.arms] == [2, 2]
    assert material.summary is None  # several seeds: no counts of pairs


def test_the_numbers_are_those_of_compare(words: list[str]) -> None:
    material, only_rows = gather(words), [re.sub(r",[^,:]*bc-[^,]*", "", word) for word in words]
    expected = compare(read_arms(only_rows, None, []))
    assert material.table is not None
    assert material.table.pairs == expected.pairs
    assert [arm.aggregates for arm in material.table.arms] == [arm.aggregates for arm in expected.arms]
    shown = plain(build_page(material))
    for arm in expected.arms:
        for estimate in arm.aggregates["mean"], arm.aggregates["iqm"], arm.aggregates["gap"]:
            assert f"{percent(estimate.value)} {percent_interval(estimate.interval)}" in shown


def test_a_run_finds_its_arm_by_the_fingerprint_of_its_policy(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"a": 0.5, "b": 0.5}, policies={"a": "f00", "b": "ba2"})
    run = write_run(tmp_path / "elsewhere", [1.0], fingerprint="ba2")
    stranger = write_run(tmp_path / "stranger", [1.0], fingerprint="123")
    material = gather([str(rows), str(run), str(stranger)])
    assert [(one.arm, one.folder.name) for one in material.training] == [("b", "elsewhere"), ("stranger", "stranger")]
    assert [arm.name for arm in material.arms] == ["a", "b", "stranger"]


def test_a_run_of_reinforcement_learning_brings_its_own_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "sac", [1.0], "algorithm: sac\n")
    append_jsonl(run / "metrics.jsonl", {"step": 20, "success": 0.5})
    write_rows(run / "evaluation.jsonl", {"sac-200": 0.5})
    material = gather([str(run)])
    assert [one.arm for one in material.training] == ["sac-200"]
    page = build_page(material)
    assert "Reinforcement learning" in page
    assert "Behaviour cloning" not in page


def test_one_file_may_hold_several_tasks(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    for task in TASKS:
        write_rows(rows, {"a": 0.9, "b": 0.2}, task)
    write_json(rows.with_suffix(".plan.json"), {
        "format": 2, "protocol": "honest", "seed": 100, "stop_on_success": True,
        "tasks": {task: {"horizon": 12, "versions": {"mujoco": "3.3.0"}} for task in TASKS},
        "policies": {name: {task: {"fingerprint": name + task, "cameras": []} for task in TASKS} for name in "ab"},
    })  # fmt: skip
    run = write_run(tmp_path / "run", [1.0], fingerprint="btoy/leave")
    material = gather([str(rows), str(run)])
    assert material.table is not None
    assert material.table.tasks == TASKS
    assert material.table.settings["toy/leave"]["protocol"] == "honest"
    assert [one.arm for one in material.training] == ["b"]
    page = build_page(material)
    assert page.count('class="small-bar') == 4
    assert "Performance profile" in page


def test_a_policy_is_called_as_its_file_calls_it(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"rsp": 0.5})
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    save_results(
        tmp_path / "rows.results.json",
        Results("What?", "toy/reach", (Arm("rsp", "RSP", "pretrained"),), tuple(lines), command="rsp-robot evaluate x"),
    )
    assert gather([str(rows)]).arms == (Arm("rsp", "RSP", "pretrained"),)
    assert gather([f"ours={rows}"]).arms == (Arm("ours", "ours"),)
    assert "rsp-robot evaluate x" in build_page(gather([str(rows)]))


# What is refused


def two_files(folder: Path, **plan: Any) -> list[Path]:
    return [write_rows(folder / "a.jsonl", {"p": 0.5}), write_rows(folder / "b.jsonl", {"q": 0.5}, **plan)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: [folder / "nowhere"], "does not exist; check the path"),
        (lambda folder: [folder], "holds nothing to report on"),
        (lambda folder: [write_run(folder / "a", [1.0]) / "config.yaml"], "holds no results"),
        (lambda folder: two_files(folder, horizon=13), "horizon is 12 in .*a.jsonl, 13 in .*b.jsonl"),
        (lambda folder: [two_files(folder)[0].parent], "holds two plans"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(
    make: Callable[[Path], list[Path]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "report.html"
    assert cli.main(["report", *map(str, make(tmp_path)), "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert re.search(message, said), said
    assert "\n" not in said
    assert not out.exists()


def test_a_row_that_a_kill_cut_off_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"p": 0.5})
    with rows.open("a") as file:
        file.write('{"policy": "p", "ta')
    assert cli.main(["report", str(rows), "--out", str(tmp_path / "r.html")]) == 0
    assert "the last line was cut off" in capsys.readouterr().err
    assert "the last line was cut off" in plain((tmp_path / "r.html").read_text())


def test_rows_of_an_older_format_are_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"p": 0.5})
    append_jsonl(rows, {"policy": "p", "success": True})
    with pytest.raises(UserError, match=r"row 20, has no 'task': another or an older format"):
        gather([str(rows)])


def test_mismatches_are_shown_unpaired_where_that_is_asked_for(tmp_path: Path) -> None:
    a = write_rows(tmp_path / "a.jsonl", {"p": 0.9})
    b = write_rows(tmp_path / "b.jsonl", {"q": 0.1}, horizon=13)
    material = gather([str(a), str(b)], allow_mismatch=True)
    shown = plain(build_page(material))
    assert material.summary is None
    assert "Comparison, unpaired" in shown
    assert "Paired comparison" not in shown
    assert "horizon is 12" in shown


# What is written


def test_files_have_the_numbers_of_the_page(words: list[str], tmp_path: Path) -> None:
    names = {key: tmp_path / "out" / f"numbers.{key}" for key in ("csv", "json", "latex")}
    options = [part for key, path in names.items() for part in (f"--{key}", str(path))]
    assert cli.main(["report", *words, "--out", str(tmp_path / "r.html"), *options]) == 0
    shown = plain((tmp_path / "r.html").read_text(encoding="utf-8"))
    document = json.loads(names["json"].read_text())
    lines = list(csv.DictReader(names["csv"].read_text().splitlines()))
    for arm in document["arms"]:
        for key in ("mean", "iqm", "gap"):
            (line,) = [one for one in lines if (one["policy"], one["quantity"]) == (arm["name"], key)]
            assert float(line["value"]) == arm["aggregates"][key]["value"]
        rate, (low, high) = arm["aggregates"]["mean"]["value"], arm["aggregates"]["mean"]["interval"]
        assert f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" in shown
        assert f"{100 * rate:.0f} \\tiny{{[{100 * low:.0f}, {100 * high:.0f}]}}" in names["latex"].read_text()
        assert document["profiles"][arm["name"]]["share"][0] == 1.0
    assert document["versions"] == {"mujoco": "3.3.0"}
    assert document["command"].startswith("rsp-robot report rsp=")


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_only_pages_and_pictures_are_written(name: str, words: list[str], tmp_path: Path) -> None:
    assert cli.main(["report", *words, "--out", str(tmp_path / name)]) == 2
    assert not (tmp_path / name).exists()


def test_many_comparisons_are_drawn_with_the_first_policy_only(tmp_path: Path) -> None:
    rates = {f"policy-{i}": 0.1 + 0.12 * i for i in range(7)}
    material = gather([str(write_rows(tmp_path / "rows.jsonl", rates))])
    page = build_page(material)
    plot = page[page.index('class="differences"') : page.index("</figcaption>", page.index('class="differences"'))]
    assert plot.count("bar-row") == 6
    assert "the table has all 21" in plot
    table = page[page.index('aria-label="Comparisons"') :]
    assert table[: table.index("</table>")].count("<tr>") == 22
    assert re.search(r"less often than \d of 6 others", verdict(material).verdict)


def test_the_verdict_of_several_tasks_says_what_is_not_established(tmp_path: Path) -> None:
    for seed in range(2):
        for task in TASKS:
            write_rows(tmp_path / f"{seed}-{task[4:]}.jsonl", {"a": 0.9, "b": 0.9, "c": 0.1}, task, seed)
    head = verdict(gather([",".join(str(p) for p in sorted(tmp_path.glob("*.jsonl")))]))
    assert head.verdict == "A succeeds more often than c; a difference to b is not established."
    assert head.sentence.startswith("Mean success over 2 tasks and 2 training seeds: a 90 % [")


# Curves


def test_a_band_reaches_from_the_lowest_to_the_highest_seed(words: list[str]) -> None:
    points, band = over_seeds([[(0.0, 2.0), (10.0, 1.0)], [(0.0, 3.0), (10.0, 2.0)]])
    assert points == [(0.0, 2.5), (10.0, 1.5)]
    assert band == [(0.0, 2.0, 3.0), (10.0, 1.0, 2.0)]
    page = build_page(gather(words))
    assert page.count('class="band arm-0"') >= 1
    assert "rsp (2 seeds)" in page


def test_seeds_are_averaged_where_they_have_been() -> None:
    points, band = over_seeds([[(0.0, 0.0), (20.0, 2.0)], [(10.0, 3.0)], []])
    assert points == [(0.0, 0.0), (10.0, 2.0), (20.0, 2.0)]
    assert band == [(0.0, 0.0, 0.0), (10.0, 1.0, 3.0), (20.0, 2.0, 2.0)]
    long = [(float(i), float(i)) for i in range(5000)]
    points, band = over_seeds([long, long])
    assert len(points) == len(band) <= 240
    assert points[-1] == (4999.0, 4999.0)


def test_one_seed_has_no_band() -> None:
    assert over_seeds([[(0.0, 1.0)]]) == ([(0.0, 1.0)], [])
    assert over_seeds([[], []]) == ([], [])


def test_a_chart_puts_points_where_they_belong() -> None:
    axis = Axis(0, 2, [(0, "0"), (2, "two")], "x & y")
    drawn = chart([Curve("a", "arm-0", [(0, 0), (1, 2)], [(1, 0, 2)], dots=True)], axis, axis, "spoken")
    assert f'points="0.0,{SIDE:.1f} {SIDE / 2:.1f},0.0"' in drawn
    assert 'style="left:100.00%">two' in drawn
    assert 'y1="1000.0" y2="0.0" class="reach arm-0"' in drawn
    assert "x &amp; y" in drawn


def test_lines_stay_apart_when_the_colours_begin_again() -> None:
    assert len({line_class(i) for i in range(3 * len(ARM_COLOURS))}) == 3 * len(ARM_COLOURS)


# Success against pretraining


def encoder(folder: Path, fingerprint: str, **provenance: Any) -> None:
    write_json(folder / "config.json", {"fingerprint": fingerprint, "provenance": provenance})


def test_success_is_drawn_over_the_steps_that_encoders_recorded(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"full": 0.9, "half": 0.7, "none": 0.3, "who": 0.5})
    names = {"full": 1000, "half": 500}
    words = [str(rows)]
    for name, steps in names.items():
        encoder(tmp_path / f"enc-{name}", name, objective="rsp", data="data/push.hdf5", steps=steps)
        told = {"fingerprint": f"{rows}-{name}", "encoder": {"fingerprint": name, "source": f"../../enc-{name}"}}
        words.append(str(write_run(tmp_path / f"run-{name}", [1.0], **told)))
    told = {"fingerprint": f"{rows}-none", "encoder": {"fingerprint": "x", "source": "random:vit-nano/16@64"}}
    words.append(str(write_run(tmp_path / "run-none", [1.0], **told)))
    # Another encoder lies where this policy's was: nothing is known about it.
    told = {"fingerprint": f"{rows}-who", "encoder": {"fingerprint": "gone", "source": "../../enc-full"}}
    words.append(str(write_run(tmp_path / "run-who", [1.0], **told)))
    material = gather(words)
    found = {arm.arm: arm.steps for arm in pretrained_arms(material)}
    assert found == {"full": 1000, "half": 500, "none": 0}
    shown = plain(build_page(material))
    assert "Success against pretraining" in shown
    assert "0 steps (none): 30 %" in shown
    assert "rsp on push.hdf5" in shown


def test_one_length_of_pretraining_is_no_curve(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"full": 0.9, "none": 0.3})
    encoder(tmp_path / "enc", "full", objective="rsp", data="push.hdf5", steps=1000)
    told = {"fingerprint": f"{rows}-full", "encoder": {"fingerprint": "full", "source": "../../enc"}}
    material = gather([str(rows), str(write_run(tmp_path / "run", [1.0], **told))])
    assert [arm.steps for arm in pretrained_arms(material)] == [1000]
    assert "Success against pretraining" not in build_page(material)


# Films


def test_films_are_those_of_the_policies_in_the_report(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"a": 0.5, "b": 0.5})
    told = {"a-success": {}, "b-x-failure": {"policy": "b", "task": "toy/reach", "success_once": True, "episode": 3}}
    told |= {"b-failure": {"task": "toy/leave"}, "c-success": {}}
    for name, sidecar in told.items():
        write_text(tmp_path / "media" / f"{name}.mp4", "film")
        write_json(tmp_path / "media" / f"{name}.json", sidecar)
    films = gather([str(rows)]).films
    assert [(film.arm, film.outcome, film.details) for film in films] == [
        ("a", "success", ()), ("b", "success", ("episode 3",))
    ]  # fmt: skip
    assert [film.arm for film in gather([f"ours={rows}:b"]).films] == ["ours"]
