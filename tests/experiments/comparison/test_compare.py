from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments import cli
from rsp_robot.experiments.comparison.compare import Table, compare, outcomes_of
from rsp_robot.experiments.comparison.files import read_arms, read_source, split_word
from rsp_robot.experiments.comparison.output import (
    need_sentence,
    print_comparison,
    sentences,
    to_csv,
    to_json,
    to_latex,
)
from rsp_robot.experiments.comparison.results import Arm, Results, save_results
from rsp_robot.experiments.comparison.statistics import mcnemar_exact, wilson_interval
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate

PLAN = {
    "seed": 100, "horizon": 12, "image_size": 64, "quality": "lean", "stop_on_success": True,
    "versions": {"mujoco": "3.3.0"},
}  # fmt: skip


def row(policy: str, task: str, seed: int, success: bool | None, start: str = "") -> dict[str, Any]:
    error = "the scene fell over" if success is None else None
    state = None if error else start or f"{task}-{seed}"
    return {
        "policy": policy, "task": task, "episode": seed - 100, "seed": seed, "initial_state": state,
        "success_once": success, "success_at_end": success, "error": error,
    }  # fmt: skip


def write(path: Path, outcomes: dict[str, Sequence[bool | None]], task: str = "toy/reach", **changes: Any) -> str:
    """Write a rows file and its plan; return the path."""
    rows = [row(name, task, 100 + i, success) for name, all_ in outcomes.items() for i, success in enumerate(all_)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    plan = PLAN | {"task": task, "policies": {name: f"{path.name}-{name}" for name in outcomes}} | changes
    path.with_suffix(".plan.json").write_text(json.dumps(plan))
    return str(path)


def draw(rate: float, n: int = 40, seed: int = 0) -> list[bool]:
    """Successes of a policy; the same start states are hard for all of them."""
    return [bool(b) for b in np.random.default_rng(seed).permutation(n) < round(rate * n)]


def table_of(*words: str, policy: str | None = None, **options: Any) -> Table:
    notes: list[str] = []
    return compare(read_arms(words, policy, notes), notes=notes, resamples=200, **options)


# What is computed


def test_one_file_compares_its_policies(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"rsp": draw(0.8), "blind": draw(0.3)})
    table = table_of(file)
    rsp, blind = table.arms
    assert (rsp.name, rsp.tasks[0].successes, rsp.tasks[0].episodes, rsp.seeds) == ("rsp", 32, 40, 1)
    assert rsp.tasks[0].interval.low == pytest.approx(wilson_interval(32, 40).low)
    assert blind.aggregates["mean"].value == pytest.approx(0.3)
    (pair,) = table.pairs
    assert (pair.difference.a_better, pair.difference.b_better) == (20, 0)
    assert pair.p_holm == mcnemar_exact(20, 0)
    assert pair.established
    assert table.settings["toy/reach"]["version of mujoco"] == "3.3.0"


def test_several_paths_are_training_seeds_and_tasks(tmp_path: Path) -> None:
    words = []
    for name, rate in (("rsp", 0.8), ("random", 0.4)):
        files = [
            write(tmp_path / f"{name}-{task}-{seed}.jsonl", {"policy": draw(rate - 0.05 * seed)}, f"toy/{task}")
            for seed in range(3)
            for task in ("reach", "leave")
        ]
        words.append(f"{name}={','.join(files)}")
    table = table_of(*words)
    assert table.tasks == ("toy/reach", "toy/leave")
    rsp, random = table.arms
    assert rsp.seeds == random.seeds == 3
    assert rsp.scores == pytest.approx(np.array([[0.8, 0.8], [0.75, 0.75], [0.7, 0.7]]))
    assert (rsp.tasks[0].successes, rsp.tasks[0].episodes, len(rsp.files)) == (90, 120, 6)
    (pair,) = table.pairs
    assert pair.difference.value == pytest.approx(0.4)
    assert pair.difference.test == "t"
    assert pair.difference.improvement is not None and pair.difference.improvement.value == 1.0


def test_p_values_are_corrected_over_all_pairs(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": draw(0.6), "b": draw(0.45), "c": draw(0.4)})
    pairs = {(pair.a, pair.b): pair for pair in table_of(file).pairs}
    assert len(pairs) == 3
    assert pairs["a", "c"].p_holm == pytest.approx(3 * mcnemar_exact(8, 0))
    assert pairs["a", "b"].p_holm == pytest.approx(2 * mcnemar_exact(6, 0))
    assert pairs["a", "c"].established and not pairs["a", "b"].established


def test_what_is_compared_with_a_few_is_corrected_for_these_pairs_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": draw(0.6), "b": draw(0.45), "c": draw(0.4), "d": draw(0.2)})
    pairs = {(pair.a, pair.b): pair for pair in table_of(file, against=["c"]).pairs}
    assert list(pairs) == [("a", "c"), ("b", "c"), ("d", "c")]
    assert pairs["a", "c"].p_holm == pytest.approx(3 * mcnemar_exact(8, 0)), "of three pairs, not six"
    assert pairs["d", "c"].difference.value == pytest.approx(-0.2)
    both = [(pair.a, pair.b) for pair in table_of(file, against=["c", "d", "c"]).pairs]
    assert both == [("a", "c"), ("b", "c"), ("d", "c"), ("a", "d"), ("b", "d")], "each pair once"
    with pytest.raises(UserError, match="unknown policy to compare with 'e'"):
        table_of(file, against=["e"])


def test_error_rows_are_counted_and_their_pairs_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": [True, None, True, False], "b": [False, True, None, False]})
    table = table_of(file)
    a, b = table.arms
    assert (a.tasks[0].successes, a.tasks[0].episodes, a.tasks[0].errors) == (2, 3, 1)
    assert (b.tasks[0].successes, b.tasks[0].episodes, b.tasks[0].errors) == (1, 3, 1)
    assert table.pairs[0].difference.starts == 2
    assert sum("1 episode ended in an error" in note for note in table.notes) == 2


def test_an_episode_that_was_played_again_after_an_error_counts_once(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "rows.jsonl", {"a": [None, True, False]}))
    with path.open("a") as file:
        file.write(json.dumps(row("a", "toy/reach", 100, True)) + "\n")
    (arm,) = table_of(str(path)).arms
    assert (arm.tasks[0].successes, arm.tasks[0].episodes, arm.tasks[0].errors) == (2, 3, 0)


def test_outcomes_stand_in_the_order_of_start_states(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": [True, False, True], "b": [False, False, None]})
    arms = read_arms([file], None, [])
    ((a,), (b,)) = outcomes_of([[arms["a"]], [arms["b"]]])
    assert a.tolist() == [[1, 0]] and b.tolist() == [[0, 0]]
    ((alone,),) = outcomes_of([[arms["a"]]])
    assert alone.tolist() == [[1, 0, 1]]


# What is refused


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"versions": {"mujoco": "3.2.0"}}, ("version of mujoco", "3.3.0", "3.2.0")),
        ({"image_size": 96}, ("image_size", "64", "96")),
        ({"quality": "full"}, ("quality", "lean", "full")),
        ({"horizon": 500}, ("horizon", "12", "500")),
        ({"stop_on_success": False}, ("stop_on_success", "True", "False")),
        ({"protocol": "cortexbench-metaworld"}, ("protocol", "honest", "cortexbench-metaworld")),
    ],
)
def test_rows_of_other_settings_are_refused_with_both_values(
    tmp_path: Path, changes: dict[str, Any], values: tuple[str, ...]
) -> None:
    a = write(tmp_path / "a.jsonl", {"a": draw(0.5)}, protocol="honest")
    b = write(tmp_path / "b.jsonl", {"b": draw(0.5)}, **({"protocol": "honest"} | changes))
    with pytest.raises(UserError) as refusal:
        table_of(a, b)
    assert all(value in str(refusal.value) for value in (*values, a, b, "--allow-mismatch"))
    table = table_of(a, b, allow_mismatch=True)
    assert not table.pairs[0].difference.paired
    assert any("unpaired" in note and values[0] in note for note in table.notes)
    assert values[0] not in table.settings["toy/reach"]


def test_seeds_of_one_policy_must_agree_too(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"a": draw(0.5)})
    b = write(tmp_path / "b.jsonl", {"a": draw(0.5)}, horizon=99)
    with pytest.raises(UserError, match="horizon is 12 in .*a.jsonl, 99 in .*b.jsonl"):
        table_of(f"arm={a},{b}")


def test_other_start_states_are_refused_with_both(tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{name}.jsonl", {name: draw(0.5)}) for name in "ab")
    path = Path(b)
    path.write_text(path.read_text().replace("toy/reach-103", "elsewhere"))
    with pytest.raises(UserError, match="seed 103: the start state is toy/reach-103 in .*a.jsonl, elsewhere in .*b"):
        table_of(a, b)
    shorter = write(tmp_path / "c.jsonl", {"c": draw(0.5, n=30)})
    with pytest.raises(UserError, match="seed 130: the start state is toy/reach-130 in .*a.jsonl, missing in .*c"):
        table_of(a, shorter)
    found = table_of(a, shorter, allow_mismatch=True).pairs[0].difference
    assert (found.test, found.starts) == ("Fisher", 30)


def test_other_tasks_are_refused_and_shared_ones_compared_when_insisted(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"a": draw(0.5)})
    a2 = write(tmp_path / "a2.jsonl", {"a": draw(0.5)}, "toy/leave")
    b = write(tmp_path / "b.jsonl", {"b": draw(0.5)})
    with pytest.raises(UserError, match="'a' was evaluated on toy/reach, toy/leave, 'b' on toy/reach"):
        table_of(f"{a},{a2}", b)
    assert table_of(f"{a},{a2}", b, allow_mismatch=True).tasks == ("toy/reach",)
    with pytest.raises(UserError, match="no task in common"):
        table_of(a2, b, allow_mismatch=True)


def test_more_seeds_of_one_task_than_of_another_are_refused(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{i}.jsonl", {"a": draw(0.5)}, task) for i, task in enumerate(["toy/x", "toy/x", "toy/y"])
    ]
    with pytest.raises(UserError, match="2 training seeds of toy/x and 1 of toy/y"):
        table_of(f"a={','.join(files)}")


def test_one_policy_is_not_two_training_seeds(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"a": draw(0.5)}, policies={"a": "f00d"})
    b = write(tmp_path / "b.jsonl", {"a": draw(0.5)}, policies={"a": "f00d"})
    for word in (f"arm={a},{b}", f"arm={a},{a}"):
        with pytest.raises(UserError, match="same policy on toy/reach, given as two training seeds of 'arm'"):
            table_of(word)


def test_a_task_nobody_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no start state of toy/reach was finished by all"):
        table_of(write(tmp_path / "a.jsonl", {"a": [None, None]}))


# What is read


def test_words_are_split_into_name_and_paths(tmp_path: Path) -> None:
    assert split_word("a.jsonl") == ("", [(Path("a.jsonl"), "")])
    assert split_word("x=runs/a:p,runs/b") == ("x", [(Path("runs/a"), "p"), (Path("runs/b"), "")])
    odd = tmp_path / "lr=0.1,wd=0:1.jsonl"
    odd.touch()
    assert split_word(str(odd)) == ("", [(odd, "")])
    for word in ("x=", "a.jsonl,", "=a.jsonl"):
        with pytest.raises(UserError, match="is not"):
            split_word(word)


def test_policies_are_picked_by_option_by_name_and_by_path(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"rsp": draw(0.8), "blind": draw(0.3)})
    two = write(tmp_path / "two.jsonl", {"rsp": draw(0.7), "blind": draw(0.2)})
    by_name = read_arms([f"rsp={one},{two}", f"blind={one},{two}"], None, [])
    assert {name: [run.policy for run in runs] for name, runs in by_name.items()} == {
        "rsp": ["rsp"] * 2,
        "blind": ["blind"] * 2,
    }
    by_option = read_arms([f"old={one}", f"new={two}"], "rsp", [])
    assert [run.policy for runs in by_option.values() for run in runs] == ["rsp", "rsp"]
    by_path = read_arms([f"arm={one}:rsp,{two}:blind"], None, [])
    assert [run.policy for run in by_path["arm"]] == ["rsp", "blind"]
    assert list(read_arms([f"{one},{two}"], None, [])) == ["rsp", "blind"]
    with pytest.raises(
        UserError, match="holds the policies rsp, blind and no 'x'; pick one, for example .*one.jsonl:rsp"
    ):
        read_arms([f"x={one}", two], None, [])
    with pytest.raises(UserError, match="holds no policy 'x'"):
        read_arms([f"{one}:x"], None, [])


def test_arms_without_a_name_are_called_by_policy_or_file(tmp_path: Path) -> None:
    a = write(tmp_path / "one" / "evaluation.jsonl", {"policy": draw(0.5)})
    b = write(tmp_path / "two" / "evaluation.jsonl", {"policy": draw(0.5)})
    c = write(tmp_path / "three.jsonl", {"policy": draw(0.5)})
    assert list(read_arms([a, b, c], None, [])) == ["policy", "two", "three"]
    with pytest.raises(UserError, match="two policies are called 'x'"):
        read_arms([f"x={a}", f"x={b}"], None, [])


def test_a_line_that_was_cut_off_is_left_out_and_said(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "rows.jsonl", {"a": draw(0.5)}))
    path.write_text(path.read_text()[:-30])
    notes: list[str] = []
    assert len(read_source(path, notes).rows) == 39
    assert len(notes) == 1 and "the last line was cut off" in notes[0]
    lines = Path(write(tmp_path / "mid.jsonl", {"a": draw(0.5)})).read_text().splitlines()
    (tmp_path / "mid.jsonl").write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]) + "\n")
    assert len(read_source(tmp_path / "mid.jsonl", notes).rows) == 39
    assert "line 2 was cut off" in notes[1]


def test_results_files_and_run_folders_are_read_with_the_plan_beside(tmp_path: Path) -> None:
    rows_file = Path(write(tmp_path / "run" / "evaluation.jsonl", {"a": draw(0.5), "b": draw(0.2)}))
    source = read_source(rows_file, [])
    results = Results(
        "Evaluation", "toy/reach", (Arm("a", "A"), Arm("b", "B")), source.rows,
        config={"evaluation": {"horizon": 12, "quality": None}}, versions={"mujoco": "3.3.0", "torch": "2"},
    )  # fmt: skip
    for name in ("evaluation.results.json", "results.json"):
        save_results(rows_file.with_name(name), results)
        assert read_source(rows_file.with_name(name), []).settings == source.settings
    assert read_source(rows_file.parent, []).path.name == "results.json"
    alone = save_results(tmp_path / "alone" / "results.json", results)
    assert read_source(alone, []).settings == {"horizon": 12, "version of mujoco": "3.3.0"}
    assert table_of(f"x={rows_file}:a", f"y={alone}:b").pairs[0].difference.paired


def test_a_folder_of_rows_is_read_and_one_of_two_plans_refused(tmp_path: Path) -> None:
    write(tmp_path / "evaluation.jsonl", {"a": draw(0.5)})
    assert read_source(tmp_path, []).path.name == "evaluation.jsonl"
    write(tmp_path / "other.jsonl", {"a": draw(0.5)})
    with pytest.raises(UserError, match=r"two plans, evaluation.plan.json and other.plan.json"):
        read_source(tmp_path, [])


def test_files_of_another_kind_are_refused_in_one_line(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(UserError) as error:
            read_source(path, [])
        assert "\n" not in str(error.value) and str(path) in str(error.value)
        return str(error.value)

    assert "does not exist" in refusal(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    assert "neither results.json nor rows" in refusal(tmp_path / "empty")
    path = Path(write(tmp_path / "rows.jsonl", {"a": draw(0.5)}))
    good = path.read_text()
    for text, cause in (
        ("", "holds no rows"),
        ("[1]\n", "no row of an evaluation"),
        (json.dumps({"task": "toy/reach", "seed": 1, "success": True}) + "\n", "older format"),
        (good.replace('"success_once": true', '"success_once": 0.7'), "no true or false"),
    ):
        path.write_text(text)
        assert cause in refusal(path)
    path.write_text(good)
    path.with_suffix(".plan.json").unlink()
    assert "settings of" in refusal(path)


def test_an_episode_with_two_outcomes_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "rows.jsonl", {"a": [True, True]}))
    first = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + first + "\n")
    assert table_of(str(path)).arms[0].tasks[0].episodes == 2  # the same row twice is one
    path.write_text(path.read_text() + first.replace("true", "false") + "\n")
    with pytest.raises(UserError, match="seed 100 twice for 'a', with different outcomes"):
        table_of(str(path))


# What is shown


def test_what_is_not_established_says_how_much_more_it_takes(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": draw(0.5, seed=1), "b": draw(0.5, seed=2)})
    (pair,) = table_of(file).pairs
    more = pair.need.episodes - 40
    assert f"{more} more episodes of each policy would be needed to see a difference of 10 points" in need_sentence(
        pair
    )
    large = table_of(file, wanted=0.9).pairs[0]
    assert "these 40 episodes suffice to see a difference of 90 points" in need_sentence(large)
    assert any("One training seed says nothing about training again" in line for line in sentences(table_of(file)))


def test_seeds_that_differ_too_much_ask_for_seeds(tmp_path: Path) -> None:
    files = [
        write(tmp_path / f"{i}.jsonl", {"a": draw(rate), "b": draw(rate)}) for i, rate in enumerate([0.1, 0.9, 0.5])
    ]
    (pair,) = table_of(",".join(files)).pairs
    assert re.search(r"\d+ seeds of each policy would be needed", need_sentence(pair))


def test_the_tables_are_printed_with_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "rows.jsonl", {"rsp": [*draw(0.8, 39), None], "blind[1]": draw(0.3)})
    print_comparison(table_of(file))
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "rsp",
        "blind[1]",
        "toy/reach",
        "12/40",
        "30 %",
        "McNemar's exact test",
        "yes",
        "note: rsp: 1 episode",
    ):
        assert text in shown


def test_json_csv_and_latex_hold_the_same_numbers(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.jsonl", {"a_1": draw(0.8 - i / 10), "b": draw(0.3)}) for i in range(2)]
    table = table_of(",".join(files))
    document = json.loads(json.dumps(to_json(table, "rsp-robot compare")))
    first = document["arms"][0]
    assert first["aggregates"]["mean"]["value"] == pytest.approx(0.75)
    assert first["scores"] == [[0.8], [0.7]]
    rows = list(csv.DictReader(to_csv(table).splitlines()))
    values = {(r["policy"], r["quantity"]): float(r["value"]) for r in rows}
    assert values["a_1", "mean"] == first["aggregates"]["mean"]["value"]
    assert values["a_1", "difference"] == document["pairs"][0]["difference"] == pytest.approx(0.45)
    latex = to_latex(table)
    assert r"a\_1 & 75" in latex and latex.count("\\\\") == 3 and "{lccc}" in latex


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": draw(0.8), "b": draw(0.3)})
    out = tmp_path / "tables" / "table.json"
    options = ["--csv", "--latex", "--markdown", "--picture"]
    assert cli.main(["compare", file, "--out", str(out), *options]) == 0
    shown = capsys.readouterr().out
    assert "Paired differences" in shown and shown.rstrip().endswith(str(out))
    assert sorted(path.suffix for path in out.parent.iterdir()) == [".csv", ".json", ".md", ".png", ".tex"]
    assert json.loads(out.read_text())["pairs"][0]["established"] is True


def test_the_command_takes_some_of_the_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        write(tmp_path / f"{task}.jsonl", {"a": draw(rate), "b": draw(0.5)}, f"toy/{task}")
        for task, rate in (("push-1", 0.8), ("push-2", 0.6), ("reach", 0.1))
    ]
    words = [f"{name}={','.join(files)}" for name in ("a", "b")]
    out = tmp_path / "table.json"
    assert cli.main(["compare", *words, "--tasks", "toy/push-*", "--against", "b", "--out", str(out)]) == 0
    stored = json.loads(out.read_text())
    assert [task["task"] for task in stored["arms"][0]["tasks"]] == ["toy/push-1", "toy/push-2"]
    assert stored["arms"][0]["aggregates"]["mean"]["value"] == pytest.approx(0.7)
    assert stored["pairs"][0]["difference"] == pytest.approx(0.2)
    assert cli.main(["compare", *words, "--tasks", "toy/pull*"]) == cli.USER_ERROR
    assert "unknown task 'toy/pull*'" in capsys.readouterr().err


def test_compressed_rows_are_read_with_the_plan_beside(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "rows.jsonl", {"a": draw(0.8), "b": draw(0.3)}))
    plain = to_json(table_of(str(file)), "")
    packed = file.with_name("rows.jsonl.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    for name in (packed, file):  # the suite's summary names the rows as they were
        found = to_json(table_of(str(name)), "")
        assert found["pairs"] == plain["pairs"] and found["settings"] == plain["settings"]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"rows.jsonl.gz is damaged"):
        table_of(str(packed))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--csv"], "--csv, --latex, --markdown and --picture write beside --out"),
        (["--picture"], "--csv, --latex, --markdown and --picture write beside --out"),
        (["--out", "table.csv"], "call it table.json"),
        (["--difference", "10"], "--difference 10"),
    ],
)
def test_the_command_refuses_mistakes_in_one_line(
    tmp_path: Path, options: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "rows.jsonl", {"a": draw(0.8), "b": draw(0.3)})
    assert cli.main(["compare", file, *options]) == cli.USER_ERROR
    said = capsys.readouterr().err
    assert cause in said and said.count("\n") == 1


def test_rows_of_a_real_evaluation_are_compared(toy_suite: Path, tmp_path: Path, oracle: Any, blind: Any) -> None:
    out = tmp_path / "evaluation.jsonl"
    evaluate({"oracle": oracle, "blind": blind}, EvaluateConfig("toy/reach", out, episodes=12, workers=1))
    table = table_of(str(out))
    assert [arm.name for arm in table.arms] == ["oracle", "blind"]
    assert table.arms[0].tasks[0].rate == 1.0 > table.arms[1].tasks[0].rate
    assert table.pairs[0].difference.b_better == 0
    assert table.settings["toy/reach"]["horizon"] == 12


def test_settings_of_each_policy_and_task_in_a_plan_are_compared(toy_suite: Path, tmp_path: Path, seeing: Any) -> None:
    out = tmp_path / "evaluation.jsonl"
    small, large, blind = (type(seeing)() for _ in range(3))
    small.image_size, large.image_size, blind.cameras = 32, 48, ()
    blind.act = lambda observations, ids: -observations["proprio"]
    tasks = ("toy/reach", "toy/torchless")
    policies = {"small": small, "large": large, "blind": dict.fromkeys(tasks, blind)}
    evaluate(policies, EvaluateConfig(tasks, out, episodes=4, workers=1))
    with pytest.raises(UserError, match="toy/reach: image_size is 32 in .*, 48 in"):
        table_of(f"a={out}:small", f"b={out}:large")
    table = table_of(f"a={out}:small", f"b={out}:blind")
    assert table.tasks == tasks and table.settings["toy/torchless"]["image_size"] == 32
    one, other = (arm[0].source for arm in read_arms([f"a={out}:small", f"b={out}:blind"], None, []).values())
    assert one.settings["cameras"] == ["front"] and "cameras" not in other.settings
    assert one.settings["protocol"] == "honest" and one.settings["horizon"] == 12
