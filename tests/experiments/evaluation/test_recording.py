from __future__ import annotations

from dataclasses import replace

import imageio.v3 as iio
import pytest

from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate
from rsp_robot.experiments.evaluation.recording import choose_episodes, record_videos
from rsp_robot.files import read_json


def row(policy: str, episode: int, success: bool | None, error: str | None = None) -> dict:
    return {"policy": policy, "task": "toy/reach", "episode": episode, "success_once": success, "error": error}


def test_first_success_and_first_failure_are_chosen():
    rows = [row("a", 3, True), row("a", 1, True), row("b", 0, True), row("a", 0, None, "died"), row("a", 2, False)]
    chosen = choose_episodes(rows, "a")
    assert {kind: found["episode"] for kind, found in chosen.items()} == {"success": 1, "failure": 2}
    assert set(choose_episodes(rows, "b")) == {"success"}


def test_films_show_the_episodes_of_the_rows(toy_suite, tmp_path, seeing, blind):
    policies = {"see": seeing, "blind": blind}
    config = EvaluateConfig("toy/reach", out=tmp_path / "rows.jsonl", episodes=2, workers=2)
    rows = evaluate(policies, config)
    films = record_videos(policies, config, rows, tmp_path / "media", size=32)
    assert films == {
        ("see", "toy/reach", "success"): tmp_path / "media" / "see-success.mp4",
        ("blind", "toy/reach", "failure"): tmp_path / "media" / "blind-failure.mp4",
    }
    caption = read_json(tmp_path / "media" / "see-success.json")
    assert (caption["episode"], caption["seed"], caption["length"]) == (0, 100_000, rows[0]["length"])
    # 60 steps a second at half speed and 30 frames a second: every step is a frame. The last one is held for 0.7 s.
    frames = iio.imread(films["blind", "toy/reach", "failure"], plugin="pyav")
    assert frames.shape == (12 + 1 + 21, 32, 32, 3)

    made = films["see", "toy/reach", "success"].stat().st_mtime_ns
    record_videos(policies, config, rows, tmp_path / "media", size=32)
    assert films["see", "toy/reach", "success"].stat().st_mtime_ns == made, "a film that is there is not made again"


def replace_success(found: dict) -> dict:
    return {**found, "success_once": True, "first_success": 1}


def test_a_rollout_that_does_not_repeat_is_not_shown(toy_suite, tmp_path, blind):
    config = EvaluateConfig("toy/reach", out=tmp_path / "rows.jsonl", episodes=1, workers=1)
    rows = evaluate({"blind": blind}, config)
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "blind-failure.mp4").write_bytes(b"of an earlier evaluation")
    with pytest.warns(UserWarning, match="did not go as in its row"):
        films = record_videos({"blind": blind}, config, [replace_success(rows[0])], tmp_path / "media")
    assert films == {} and list((tmp_path / "media").iterdir()) == []
    raised = [{**rows[0], "task": "toy/raise"}]
    with pytest.warns(UserWarning, match="ArithmeticError"):
        record_videos({"blind": blind}, replace(config, tasks="toy/raise", attempts=1), raised, tmp_path / "media")


def test_films_of_several_tasks_are_told_apart(toy_suite, tmp_path, blind):
    config = EvaluateConfig(("toy/reach", "toy/leave"), out=tmp_path / "rows.jsonl", episodes=1, workers=1)
    rows = evaluate({"blind": blind}, config)
    films = record_videos({"blind": blind}, config, rows, tmp_path / "media", size=32)
    assert {key: path.name for key, path in films.items()} == {
        ("blind", "toy/reach", "failure"): "blind-toy-reach-failure.mp4",
        ("blind", "toy/leave", "success"): "blind-toy-leave-success.mp4",
    }
    assert read_json(tmp_path / "media" / "blind-toy-leave-success.json")["task"] == "toy/leave"
