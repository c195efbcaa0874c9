from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies import behaviour_cloning as module
from rsp_robot.policies.behaviour_cloning import (
    BCConfig,
    fit_head,
    learning_rate,
    load_policy,
    train_bc,
)  # fmt: skip
from rsp_robot.policies.heads import MLPHead

CONFIG = BCConfig(steps=300, batch_size=64, hidden=(32,), log_every=100)


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_learns_what_can_be_seen_and_a_blind_policy_does_not(make_data, encoder, tmp_path):
    data = make_data(count=60)
    seeing = train_bc(data, encoder, tmp_path / "seeing", replace(CONFIG, steps=600))
    blind = train_bc(data, None, tmp_path / "blind", replace(CONFIG, steps=600))
    curves = [read_jsonl(folder.parent / "metrics.jsonl") for folder in (seeing, blind)]
    assert [row["step"] for row in curves[0]] == [100, 200, 300, 400, 500, 600]
    assert set(curves[0][0]) == {"step", "loss", "valid_loss"}
    # The goal is uniform in [-1, 1]: without it an error of 0.4 ** 2 / 3 = 0.053 remains, with it the noise, 0.0001.
    assert curves[1][-1]["loss"] > 0.03
    assert curves[0][-1]["loss"] < 0.004 and curves[0][-1]["valid_loss"] < 0.01
    with DemonstrationFile(data) as file:
        held_out = file.read(9)
    actions = load_policy(seeing, encoder).act(held_out.observations)
    assert actions.dtype == np.float32 and actions.shape == held_out.actions.shape
    assert np.abs(actions - held_out.actions).mean() < 0.1


def test_same_seed_same_bytes(make_data, make_encoder, tmp_path):
    data = make_data()
    torch.manual_seed(0)
    first = train_bc(data, make_encoder(), tmp_path / "a", CONFIG)
    torch.manual_seed(99)
    torch.rand(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    second = train_bc(data, make_encoder(), tmp_path / "b", CONFIG, cache=tmp_path / "other-cache")
    torch.set_num_threads(threads)
    assert weights(first) == weights(second)
    assert (first.parent / "metrics.jsonl").read_bytes() == (second.parent / "metrics.jsonl").read_bytes()
    other = train_bc(data, make_encoder(), tmp_path / "c", replace(CONFIG, seed=1))
    assert weights(first) != weights(other)


def test_finished_run_is_returned_and_a_killed_one_ends_the_same(make_data, encoder, tmp_path, monkeypatch):
    data = make_data()
    undisturbed = train_bc(data, encoder, tmp_path / "undisturbed", CONFIG)

    class KilledError(Exception):
        pass

    def killed(*args, **kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_policy_folder", killed)
        with pytest.raises(KilledError):
            train_bc(data, encoder, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run" / "policy").exists()
    folder = train_bc(data, encoder, tmp_path / "run", CONFIG)
    assert weights(folder) == weights(undisturbed)
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [100, 200, 300], "no row twice"

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_head", killed)
        assert train_bc(data, encoder, tmp_path / "run", CONFIG) == folder


def test_a_folder_of_another_run_is_refused(make_data, make_encoder, tmp_path):
    data = make_data()
    train_bc(data, make_encoder(0), tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        train_bc(data, make_encoder(0), tmp_path / "run", replace(CONFIG, seed=1))
    with pytest.raises(UserError, match=r"other settings \(encoder\)"):
        train_bc(data, make_encoder(1), tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="other settings .*data_sha256"):
        train_bc(make_data("other.hdf5", first_seed=5), make_encoder(0), tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="is not empty"):
        train_bc(data, make_encoder(0), tmp_path / "run", CONFIG, resume=False)


def test_an_encoder_that_changes_is_noticed(make_data, encoder, tmp_path, monkeypatch):
    def meddle(*args, **kwargs):
        encoder.weight += 0.1
        return fit_head(*args, **kwargs)

    monkeypatch.setattr(module, "fit_head", meddle)
    with pytest.raises(RuntimeError, match="frozen encoder changed"):
        train_bc(make_data(), encoder, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run" / "policy").exists()


def test_other_simulator_versions_are_refused(make_data, tmp_path):
    data = make_data(versions={"mujoco": "1.50", "torch": "0.1"})
    folder = train_bc(data, None, tmp_path / "run", CONFIG)
    assert read_json(folder / "config.json")["simulators"] == {"mujoco": "1.50"}
    with pytest.raises(UserError, match=r"from mujoco 1\.50, but"):
        load_policy(folder)
    assert load_policy(folder, any_simulator=True).cameras == ()


def test_only_the_tasks_own_suite_counts():
    recorded = {"mujoco": "3.3.0", "metaworld": "3.1.1", "robosuite": "1.5.2", "torch": "2.8"}
    assert module._simulators("metaworld/push-v3", recorded) == {"mujoco": "3.3.0", "metaworld": "3.1.1"}
    assert module._simulators("", recorded) == {"mujoco": "3.3.0", "metaworld": "3.1.1", "robosuite": "1.5.2"}


def test_bad_data_leaves_no_folder_behind(make_data, tmp_path):
    path = make_data(count=2)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/expert_actions"][0, 0] = np.inf
    with pytest.raises(UserError, match="not finite"):
        train_bc(path, None, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()


def fit(make_data, config, tmp_path, **kwargs):
    return train_bc(make_data(**kwargs), None, tmp_path / "run", config)


def test_one_demonstration_has_no_validation(make_data, tmp_path):
    folder = fit(make_data, CONFIG, tmp_path, count=1)
    assert all(set(row) == {"step", "loss"} for row in read_jsonl(folder.parent / "metrics.jsonl"))


def test_cosine_schedule_by_hand():
    config = BCConfig(steps=4, lr=0.8)
    assert [learning_rate(config, step) for step in (0, 2)] == pytest.approx([0.8, 0.4])
    assert learning_rate(config, 4) == pytest.approx(0)
    assert learning_rate(replace(config, schedule="constant"), 3) == 0.8


def toy_data(rows: int = 40):
    features = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    zeros, ones = torch.zeros(1), torch.ones(1)
    return module.BCData(features, features[:, :2].clamp(-1, 1), features, features[:, :2].clamp(-1, 1), zeros, ones)


def test_moving_average_follows_by_hand():
    config = BCConfig(steps=3, batch_size=8, hidden=(), lr=0.1, schedule="constant", ema=0.5, seed=4)
    plain = replace(config, ema=0.0)
    states = [fit_head(toy_data(), replace(plain, steps=steps)).layers[0].weight.detach() for steps in (1, 2, 3)]
    start = MLPHead(3, 2, (), generator=torch.Generator().manual_seed(4)).layers[0].weight.detach()
    average = start.clone()
    for step, state in enumerate(states):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state
    assert torch.allclose(fit_head(toy_data(), config).layers[0].weight, average, atol=1e-6)


def test_divergence_is_named():
    data = replace(toy_data(), train_actions=torch.full((40, 2), float("nan")))
    with pytest.raises(UserError, match=r"diverged at step 5; lower lr \(now 0\.001\)"):
        fit_head(data, BCConfig(steps=5, log_every=5))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 1}, {"ema": 1.0}, {"lr": 0.0}, {"hidden": (0,)}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="correct the settings"):
        BCConfig(**wrong)
