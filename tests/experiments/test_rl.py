from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.errors import UserError
from rsp_robot.experiments.cli import main, read_options
from rsp_robot.experiments.rl import Scene, make_env, make_vec_env, train_on_task
from rsp_robot.experiments.verbs.rl import RLCommand
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies.policy import load_policy
from rsp_robot.policies.rl import EmbeddingEnv, RLConfig

TASK = "dmc/reacher-easy"
SCENE = Scene(TASK, ("fixed",), 32, "lean", 20, False, action_repeat=4)
SMALL = ["--image-size", "32", "--horizon", "20", "--action-repeat", "4", "--hidden", "16", "--batch-size", "16",
         "--learning-starts", "10", "--log-every", "20", "--evaluate-every", "0", "--device", "cpu"]  # fmt: skip
ENCODER = "random:vit-nano/16@32"


def test_a_simulated_task_passes_the_checker_of_stable_baselines() -> None:
    env = EmbeddingEnv(make_env(SCENE), FrozenEncoder.load(ENCODER))
    check_env(env, warn=False)
    env.close()
    state = EmbeddingEnv(make_env(replace(SCENE, cameras=(), state=True)), None, vectors=("proprio", "state"))
    check_env(state, warn=False)
    assert state.observation_space["state"].shape == (6,)
    state.close()


def test_several_environments_run_in_processes_of_their_own_and_draw() -> None:
    one, several = make_vec_env(SCENE, 1), make_vec_env(SCENE, 2)
    try:
        one.seed(4)
        several.seed(3)
        first, both = one.reset(), several.reset()
        np.testing.assert_array_equal(first["fixed"][0], both["fixed"][1])
        for _ in range(5):
            seen, rewards, dones, infos = several.step(np.zeros((2, 2), np.float32))
        assert dones.all() and infos[1]["episode"]["l"] == 5 and infos[1]["TimeLimit.truncated"]
        assert seen["fixed"].std() > 5
    finally:
        one.close()
        several.close()


def test_the_verb_trains_measures_and_films(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sac"
    words = ["rl", TASK, "--encoder", ENCODER, "--steps", "40", "--episodes", "2", "--out", str(out), *SMALL]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out / "policy") and "of 2 held-out episodes solved" in shown.err
    about = read_json(out / "policy" / "config.json")
    assert about["task"] == TASK and about["cameras"] == ["fixed"] and about["quality"] == "lean"
    assert about["encoder"]["source"] == ENCODER and about["simulators"].keys() == {"mujoco", "dm_control"}
    rows = read_jsonl(out / "evaluation.jsonl")
    assert [row["length"] for row in rows] == [20, 20] or any(row["success_once"] for row in rows)
    assert list((out / "media").glob("sac-40-*.mp4"))
    assert main(["evaluate", str(out), "--task", TASK, "--episodes", "2", "--horizon", "20", "--workers", "1",
                 "--out", str(tmp_path / "rows.jsonl")]) == 0  # fmt: skip
    again = read_jsonl(tmp_path / "rows.jsonl")
    assert [row["return"] for row in again] == [row["return"] for row in rows]
    assert main(words) == 0, "finished: nothing to learn"


def test_an_expert_on_states_feeds_the_collection(tmp_path: Path) -> None:
    out = tmp_path / "expert"
    assert main(["rl", TASK, "--encoder", "state", "--steps", "40", "--episodes", "1", "--no-videos",
                 "--out", str(out), *SMALL]) == 0  # fmt: skip
    policy = load_policy(out)
    assert policy.state and policy.cameras == ()
    config = CollectConfig(
        TASK, tmp_path / "d.hdf5", 1, image_size=16, horizon=8, keep_failures=True, action_noise=0, workers=1,
        expert=out,
    )  # fmt: skip
    with DemonstrationFile(collect(config, quiet=True)) as file:
        assert file.info.expert.startswith("sac on states, 40 decisions, ")
        shown = file.read(0)
    policy.reset([0])
    for step in range(len(shown)):
        seen = {key: shown.observations[key][step][None] for key in ("proprio", "state")}
        np.testing.assert_allclose(policy.act(seen, [0])[0], shown.actions[step], atol=1e-5)


def test_the_words_of_the_command() -> None:
    command: RLCommand = read_options(
        "rl", [TASK, "--algorithm", "ppo", "--camera", "hand", "--n-envs", "4", "--lr", "1e-4", "--out", "x"]
    )
    assert command.task == TASK and command.rl.algorithm == "ppo" and command.rl.n_envs == 4
    assert command.cameras == ("hand",) and command.encoder == "none" and command.rl.lr == 1e-4
    assert command.rl.clone.steps == 2000


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder state looks through no camera"):
        train_on_task(TASK, tmp_path / "a", RLConfig(), encoder="state", cameras=("hand",))
    with pytest.raises(UserError, match="unknown camera of dmc/reacher-easy 'front'"):
        train_on_task(TASK, tmp_path / "b", RLConfig(), encoder=ENCODER, cameras=("front",))
    shown = collect(
        CollectConfig("metaworld/reach-v3", tmp_path / "d.hdf5", 1, cameras=("close",), image_size=16, workers=1),
        quiet=True,
    )
    with pytest.raises(UserError, match="demonstrates metaworld/reach-v3, the policy is to learn dmc/reacher-easy"):
        train_on_task(TASK, tmp_path / "c", RLConfig(), demonstrations=shown)
    with pytest.raises(UserError, match="was recorded with image_size 16, asked for 64; set image_size to 16"):
        train_on_task(
            "metaworld/reach-v3", tmp_path / "d", RLConfig(), encoder=ENCODER, cameras=("close",), demonstrations=shown
        )
    assert not any((tmp_path / name).exists() for name in "abcd")


@pytest.mark.slow
def test_sac_learns_to_reach_through_a_frozen_encoder(tmp_path: Path) -> None:
    """Within 6000 decisions: twice the return of the first 1000, which were random, and half of all episodes solved."""
    config = RLConfig(
        steps=6000, action_repeat=4, reward_scale=0.5, gamma=0.95, lr=1e-3, log_every=1000, evaluate_every=3000,
        evaluation_episodes=20,
    )  # fmt: skip
    folder = train_on_task(
        TASK, tmp_path / "sac", config, encoder="random:vit-nano/8@64", pooling="spatial-softmax", horizon=100
    )
    rows = read_jsonl(tmp_path / "sac" / "metrics.jsonl")
    curve = [row for row in rows if "success" in row]
    assert curve[-1]["return"] >= 2 * curve[0]["return"]
    assert curve[-1]["success"] >= max(0.5, curve[0]["success"] + 0.1)
    about = read_json(folder / "config.json")
    assert about["evaluation"]["success"] >= 0.4, "on held-out starts, without exploration"
    assert about["encoder"]["checksum_before"] == about["encoder"]["checksum_after"]
