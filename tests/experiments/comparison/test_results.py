from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.results import (
    Arm,
    Results,
    load_results,
    match_rows,
    print_table,
    save_results,
    summarise,
)
from rsp_robot.experiments.comparison.wording import headline
from rsp_robot.files import read_json, write_json, write_text

ARMS = (
    Arm("rsp", "RSP", "pretrained"),
    Arm("random", "random", "weights at random", phrase="the random encoder"),
    Arm("blind", "blind", "no eyes", phrase="the blind policy"),
)


def rows_of(policy: str, outcomes: str) -> list[dict]:
    """One row per letter: ``s`` success, ``f`` failure, ``e`` error."""
    return [
        {
            "policy": policy, "task": "metaworld/push-v3", "episode": i, "seed": 100 + i,
            "initial_state": None if letter == "e" else f"state{i}",
            "success_once": None if letter == "e" else letter == "s",
            "success_at_end": None if letter == "e" else letter == "s" and i % 2 == 0,
            "first_success": 10 * i if letter == "s" else None,
            "return": 0.5, "length": 50, "wall_s": 0.1, "error": "the worker died" if letter == "e" else None,
        }
        for i, letter in enumerate(outcomes)
    ]  # fmt: skip


def results_of(**outcomes: str) -> Results:
    rows = [row for policy, letters in outcomes.items() for row in rows_of(policy, letters)]
    arms = tuple(arm for arm in ARMS if arm.name in outcomes)
    return Results("A title", "metaworld/push-v3", arms, tuple(rows), command="rsp-robot quickstart")


# Summary


def test_summary_counts_by_hand() -> None:
    summary = results_of(rsp="sssfsf", blind="fsffff").summary
    rsp, blind = summary.arms
    assert (rsp.successes, rsp.episodes, rsp.errors) == (4, 6, 0)
    assert rsp.rate == pytest.approx(4 / 6)
    assert rsp.successes_at_end == 3  # episodes 0, 2 and 4
    assert rsp.median_first_success == 15  # of 0, 10, 20 and 40
    assert blind.median_first_success == 10
    assert rsp.interval.low < rsp.rate < rsp.interval.high
    (comparison,) = summary.comparisons
    pairs = comparison.pairs
    assert (comparison.a, comparison.b) == ("rsp", "blind")
    assert (pairs.both, pairs.only_a, pairs.only_b, pairs.neither) == (1, 3, 0, 2)
    assert comparison.p_holm == pairs.p_value == pytest.approx(0.25)
    assert not comparison.established


def test_summary_corrects_for_the_number_of_comparisons() -> None:
    # Exact McNemar: 6 to 0 gives 2/64 = 0.031, which is below 0.05 alone and above it among three comparisons.
    alone = results_of(rsp="ssssssff", blind="ffffffff").summary.comparisons[0]
    assert alone.established
    among = results_of(rsp="ssssssff", random="ssssssff", blind="ffffffff").summary.comparisons
    assert [(c.a, c.b) for c in among] == [("rsp", "random"), ("rsp", "blind"), ("random", "blind")]
    assert [c.p_holm for c in among] == pytest.approx([1.0, 3 * 2 / 64, 3 * 2 / 64])
    assert not any(c.established for c in among)


def test_summary_leaves_out_errors_and_their_partners() -> None:
    summary = results_of(rsp="sssse", blind="feffs").summary
    rsp, blind = summary.arms
    assert (rsp.successes, rsp.episodes, rsp.errors) == (4, 4, 1)
    assert (blind.successes, blind.episodes, blind.errors) == (1, 4, 1)
    pairs = summary.comparisons[0].pairs
    assert (pairs.n, pairs.only_a, pairs.only_b) == (3, 3, 0)


def test_summary_takes_the_policies_as_arms_where_none_are_given() -> None:
    summary = summarise(rows_of("second", "sf") + rows_of("first", "ff"))
    assert [arm.label for arm in summary.arms] == ["second", "first"]


def test_matching_does_not_depend_on_the_order_of_the_rows() -> None:
    a, b = rows_of("rsp", "sfsf"), rows_of("blind", "ffss")
    first, second = match_rows(a, b[::-1])
    assert first.tolist() == [True, False, True, False]
    assert second.tolist() == [False, False, True, True]


def test_unequal_start_states_are_refused() -> None:
    a, b = rows_of("rsp", "sf"), rows_of("blind", "fs")
    b[1]["initial_state"] = "another"
    with pytest.raises(UserError, match="seed 101 started from different states for rsp and blind"):
        match_rows(a, b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (rows_of("rsp", "sfs"), rows_of("blind", "sf"), "seed 102 was run for one policy only"),
        (rows_of("rsp", "s") * 2, rows_of("blind", "s"), "twice for rsp"),
        (rows_of("rsp", "se"), rows_of("blind", "es"), "no episode was finished by both"),
    ],
)
def test_rows_that_do_not_pair_up_are_refused(a: list, b: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_rows(a, b)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no evaluation rows"),
        ([{"policy": "rsp"}], "row 0 has no 'task'"),
        ([rows_of("rsp", "s")[0] | {"success_once": 1}], "row 0 has no true or false"),
        (rows_of("stranger", "s"), "'stranger' belong to no arm"),
        (rows_of("rsp", "s"), "'random' has no finished episode"),
        (rows_of("rsp", "s") + rows_of("random", "e"), "'random' has no finished episode"),
    ],
)
def test_rows_that_cannot_be_summarised_are_refused(rows: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        summarise(rows, ARMS)


# The file


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    results = replace(results_of(rsp="ssf", random="sff", blind="fff"), config={"lr": 1e-4}, seeds={"bc": 3})
    path = save_results(tmp_path / "results.json", results)
    assert load_results(path) == load_results(tmp_path) == results
    assert load_results(path).summary == results.summary


def test_stored_numbers_are_for_readers_and_the_rows_decide(tmp_path: Path) -> None:
    path = save_results(tmp_path / "results.json", results_of(rsp="ssf", blind="fff"))
    document = read_json(path)
    assert document["summary"]["arms"][0]["successes"] == 2
    assert document["headline"]["verdict"] == "No difference between RSP and the blind policy is established."
    document["summary"]["arms"][0]["successes"] = 3
    write_json(path, document)
    assert load_results(path).summary.arms[0].successes == 2


def test_file_is_strict_json_whatever_the_configuration_holds(tmp_path: Path) -> None:
    config = {"out": Path("a/b"), "gap": (4, 48), "best": float("nan"), "n": np.int64(3), "x": np.float32(0.5)}
    path = save_results(tmp_path / "results.json", replace(results_of(rsp="s"), config=config))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(path.read_text(), parse_constant=refuse)
    assert document["config"] == {"out": "a/b", "gap": [4, 48], "best": None, "n": 3, "x": 0.5}


def test_nothing_is_written_where_the_rows_are_bad(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        save_results(tmp_path / "results.json", replace(results_of(rsp="s"), rows=()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{ not json", "not valid JSON"),
        ("[]", "does not hold evaluation results"),
        ("{}", "'title' is missing"),
        ('{"title": "t", "task": 3, "arms": [], "rows": []}', "'task' is not a text"),
        ('{"title": "t", "task": "x", "arms": ["rsp"], "rows": []}', "does not hold evaluation results"),
        ('{"title": "t", "task": "x", "arms": [], "rows": [3]}', "does not hold evaluation results"),
        ('{"title": "t", "task": "x", "arms": [], "rows": []}', "no evaluation rows"),
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    write_text(tmp_path / "results.json", content)
    with pytest.raises(UserError, match=message) as caught:
        load_results(tmp_path)
    assert "results.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json does not exist"):
        load_results(tmp_path)


# Words


def test_headline_says_plainly_what_is_and_is_not_established() -> None:
    head = headline(results_of(rsp="s" * 16 + "ff", random="s" * 14 + "ffff", blind="f" * 18).summary)
    assert head.verdict == (
        "RSP succeeds more often than the blind policy; a difference to the random encoder is not established."
    )
    assert head.sentence.startswith(
        "RSP succeeded in 16 of 18 episodes (89 % [67, 97]), the random encoder in 14 of 18 (78 % [55, 91]) and "
        "the blind policy in 0 of 18 (0 % [0, 18]). The difference to the random encoder is +11 points"
    )
    assert "p = 0.50: not established by these 18 pairs of episodes." in head.sentence
    assert "p < 0.001: established." in head.sentence
    assert "left out" not in head.sentence


def test_headline_admits_that_the_first_arm_is_worse() -> None:
    summary = results_of(rsp="f" * 20, random="s" * 20, blind="f" * 20).summary
    assert headline(summary).verdict == (
        "RSP succeeds less often than the random encoder; a difference to the blind policy is not established."
    )


def test_headline_without_any_established_difference() -> None:
    head = headline(results_of(rsp="ssf", random="sff", blind="fff").summary)
    assert head.verdict == "No difference between RSP and the random encoder or the blind policy is established."


def test_headline_of_one_arm_and_of_errors() -> None:
    head = headline(results_of(random="sfe").summary)
    assert head.verdict == "The random encoder was run alone: there is nothing to compare it with."
    assert head.sentence.startswith("The random encoder succeeded in 1 of 2 episodes (50 % ")
    assert head.sentence.endswith("Brackets are 95 % intervals. 1 episode ended in an error and is left out.")


def test_table_fits_a_terminal_and_shows_what_the_rows_say() -> None:
    stream = StringIO()
    console = Console(file=stream, width=80)
    print_table(results_of(rsp="s" * 16 + "ff", random="s" * 14 + "ffff", blind="f" * 18), console)
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("16/18", "89 %", "[67, 97]", "RSP vs random", "2 : 0", "+11 [−1, +30]", "0.50", "< 0.001"):
        assert text in shown, text
    assert "is not established." in " ".join(shown.split())


def test_markup_in_labels_is_printed_as_it_is() -> None:
    stream = StringIO()
    results = replace(results_of(rsp="s"), arms=(Arm("rsp", "RSP [v2]"),), title="push [bold]")
    print_table(results, Console(file=stream, width=80))
    assert "RSP [v2]" in stream.getvalue()
    assert "push [bold]" in stream.getvalue()
