from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies import bc_folder
from rsp_robot.policies import behaviour_cloning as module
from rsp_robot.policies.behaviour_cloning import BCConfig, load_policy, train_bc
from rsp_robot.policies.embedding_cache import EmbeddingCache
from rsp_robot.policies.heads import MLPConfig

CONFIG = BCConfig(normalise_actions="none", steps=300, batch_size=64, mlp=MLPConfig(hidden=(32,)), log_every=100)
QUICK = replace(CONFIG, steps=6, batch_size=8, log_every=3)


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_learns_what_can_be_seen_and_a_blind_policy_does_not(make_data, encoder, tmp_path):
    data = make_data(count=60)
    seeing = train_bc(data, encoder, tmp_path / "seeing", replace(CONFIG, steps=600))
    blind = train_bc(data, None, tmp_path / "blind", replace(CONFIG, steps=600))
    oracle = train_bc(data, "state", tmp_path / "oracle", replace(CONFIG, steps=600))
    curves = [read_jsonl(folder.parent / "metrics.jsonl") for folder in (seeing, blind, oracle)]
    assert [row["step"] for row in curves[0]] == [100, 200, 300, 400, 500, 600]
    assert set(curves[0][0]) == {"step", "loss", "valid_loss"}
    # The goal is uniform in [-1, 1]: without it an error of 0.4 ** 2 / 3 = 0.053 remains, with it the noise, 0.0001.
    assert curves[1][-1]["loss"] > 0.03
    assert curves[0][-1]["loss"] < 0.004 and curves[0][-1]["valid_loss"] < 0.01
    assert curves[2][-1]["valid_loss"] < 0.004
    with DemonstrationFile(data) as file:
        held_out = file.read(9)
    actions = load_policy(seeing, encoder).act(held_out.observations)
    assert actions.dtype == np.float32 and actions.shape == held_out.actions.shape
    assert np.abs(actions - held_out.actions).mean() < 0.1


def test_eyes_of_its_own_learn_to_see(make_data, tmp_path):
    config = replace(CONFIG, steps=250, batch_size=32, lr=3e-3, log_every=50)
    folder = train_bc(make_data(count=30), "scratch", tmp_path / "run", config)
    rows = read_jsonl(folder.parent / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.02, "without seeing the goal 0.053 remain"


@pytest.mark.parametrize("change", [{}, {"encoder": "scratch"}, {"augment": "shift"}, {"finetune": True}])
def test_same_seed_same_bytes(make_data, tmp_path, change):
    data, change = make_data(count=4), dict(change)
    spec = change.pop("encoder", "random:vit-nano/8@16")
    config = replace(QUICK, **change)
    torch.manual_seed(0)
    first = train_bc(data, spec, tmp_path / "a", config)
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    second = train_bc(data, spec, tmp_path / "b", config, cache=EmbeddingCache(tmp_path / "other-cache"))
    torch.set_num_threads(threads)
    assert weights(first) == weights(second)
    assert (first.parent / "metrics.jsonl").read_bytes() == (second.parent / "metrics.jsonl").read_bytes()
    assert weights(first) != weights(train_bc(data, spec, tmp_path / "c", replace(config, seed=1)))


def test_finished_run_is_returned_and_a_killed_one_ends_the_same(make_data, encoder, tmp_path, monkeypatch):
    data = make_data()
    undisturbed = train_bc(data, encoder, tmp_path / "undisturbed", CONFIG)

    class KilledError(Exception):
        pass

    def killed(*args, **kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(bc_folder, "save_policy_folder", killed)
        with pytest.raises(KilledError):
            train_bc(data, encoder, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run" / "policy").exists()
    folder = train_bc(data, encoder, tmp_path / "run", CONFIG)
    assert weights(folder) == weights(undisturbed)
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [100, 200, 300], "no row twice"

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", killed)
        assert train_bc(data, encoder, tmp_path / "run", CONFIG) == folder


def test_a_folder_of_another_run_is_refused(make_data, make_encoder, tmp_path):
    data = make_data()
    train_bc(data, make_encoder(0), tmp_path / "run", QUICK)
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        train_bc(data, make_encoder(0), tmp_path / "run", replace(QUICK, seed=1))
    with pytest.raises(UserError, match=r"other settings \(encoder\)"):
        train_bc(data, make_encoder(1), tmp_path / "run", QUICK)
    with pytest.raises(UserError, match="other settings .*data_sha256"):
        train_bc(make_data("other.hdf5", first_seed=5), make_encoder(0), tmp_path / "run", QUICK)
    with pytest.raises(UserError, match=r"other settings \(head_settings\)"):
        train_bc(data, make_encoder(0), tmp_path / "run", replace(QUICK, mlp=MLPConfig(hidden=(31,))))
    with pytest.raises(UserError, match="is not empty"):
        train_bc(data, make_encoder(0), tmp_path / "run", QUICK, resume=False)


def test_checkpoints_are_whole_policies_and_say_what_they_are(make_data, encoder, tmp_path):
    config = replace(QUICK, checkpoint_every=2, ema=0.5)
    folder = train_bc(make_data(), encoder, tmp_path / "run", config, encoder_source=tmp_path)
    found = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in found] == ["step-000002", "step-000004", "step-000006"]
    kept = [read_json(path / "config.json")["kept"] for path in (*found, folder)]
    assert kept[0] == "checkpoint at step 2 of 6, not chosen" and kept[3] == "last of 6 steps"
    policies = [load_policy(path, encoder) for path in (*found, folder)]
    assert policies[2].fingerprint == policies[3].fingerprint != policies[0].fingerprint
    assert (found[0] / read_json(found[0] / "config.json")["encoder"]["source"]).resolve() == tmp_path


def test_best_of_is_labelled_as_such(make_data, encoder, tmp_path):
    folder = train_bc(make_data(), encoder, tmp_path / "run", replace(QUICK, keep="valid", log_every=2))
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    best = min(rows, key=lambda row: row["valid_loss"])["step"]
    assert read_json(folder / "config.json")["kept"] == f"lowest validation loss, at step {best} of 6"
    with pytest.raises(UserError, match="keep valid needs held-out demonstrations"):
        train_bc(make_data("one.hdf5", count=1), encoder, tmp_path / "one", replace(QUICK, keep="valid"))
    assert not (tmp_path / "one").exists()


def test_one_demonstration_has_no_validation(make_data, tmp_path):
    folder = train_bc(make_data(count=1), None, tmp_path / "run", QUICK)
    assert all(set(row) == {"step", "loss"} for row in read_jsonl(folder.parent / "metrics.jsonl"))


def test_other_simulator_versions_are_refused(make_data, tmp_path):
    data = make_data(versions={"mujoco": "1.50", "torch": "0.1"})
    folder = train_bc(data, None, tmp_path / "run", QUICK)
    assert read_json(folder / "config.json")["simulators"] == {"mujoco": "1.50"}
    with pytest.raises(UserError, match=r"from mujoco 1\.50, but"):
        load_policy(folder)
    with pytest.warns(UserWarning, match=r"from mujoco 1\.50, but"):
        assert load_policy(folder, allow_mismatch=True).cameras == ()
    other = make_data("other.hdf5", versions={"mujoco": "1.51"})
    with pytest.raises(UserError, match=r"other.hdf5 was made with mujoco 1\.51, \S+demos.hdf5 with 1\.50"):
        train_bc([data, other], None, tmp_path / "both", QUICK)


def test_only_the_tasks_own_suite_counts():
    recorded = {"mujoco": "3.3.0", "metaworld": "3.1.1", "robosuite": "1.5.2", "torch": "2.8"}
    relevant = bc_folder.relevant_simulators
    assert relevant("metaworld/push-v3", recorded) == {"mujoco": "3.3.0", "metaworld": "3.1.1"}
    assert relevant("", recorded) == {"mujoco": "3.3.0", "metaworld": "3.1.1", "robosuite": "1.5.2"}


def test_a_damaged_episode_is_set_aside_counted_and_named(make_data, encoder, tmp_path, capsys):
    path = make_data(count=5)
    with h5py.File(path, "r+") as file:
        file["data/demo_1/actions"][4, 0] = np.nan
    folder = train_bc(path, encoder, tmp_path / "run", QUICK)
    assert (tmp_path / "run" / "quarantine.txt").read_text() == "demos.hdf5 demo_1: actions not finite at step 4\n"
    assert "1 of 5 episodes set aside (demos.hdf5 demo_1: actions not finite at step 4)" in capsys.readouterr().err
    assert read_json(folder / "config.json")["quarantined"] == 1
    assert np.isfinite([row["loss"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")]).all()


def test_bad_data_leaves_no_folder_behind(make_data, tmp_path):
    path = make_data(count=2)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/expert_actions"][0, 0] = np.inf
    with pytest.raises(UserError, match="no episode is left to train on"):
        train_bc(path, None, tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()


def test_shifted_pictures_are_encoded_anew_and_not_cached(make_data, encoder, tmp_path, own_cache, capsys):
    config = replace(QUICK, augment="shift", history=2)
    train_bc(make_data(count=3), encoder, tmp_path / "run", config)
    assert "encoded anew in every batch, nothing is cached" in capsys.readouterr().err
    assert not own_cache.exists() and encoder.passes.count(8 * 2) == 6, "six batches of eight samples of two frames"
    train_bc(make_data(count=3), encoder, tmp_path / "cached", QUICK)
    assert own_cache.exists()


def test_training_sees_shifted_pictures_and_validation_sees_them_as_they_are(make_data, encoder, tmp_path, monkeypatch):
    path = make_data(count=3)
    with h5py.File(path, "r+") as file:
        for number, demo in enumerate(file["data"].values()):
            shape = demo["obs/front"].shape
            demo["obs/front"][...] = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    with DemonstrationFile(path) as file:
        known = {frame.tobytes() for index in range(3) for frame in file.read_frames(index, "front")}
    seen: dict[bool, list[bool]] = {True: [], False: []}
    forward = type(encoder).forward

    def watch(self, frames):
        seen[torch.is_grad_enabled()] += [frame.numpy().tobytes() in known for frame in frames]
        return forward(self, frames)

    monkeypatch.setattr(type(encoder), "forward", watch)
    train_bc(path, encoder, tmp_path / "run", replace(QUICK, augment="shift"))
    assert len(seen[True]) == 6 * 8 and 0 < sum(seen[True]) < 30, "one shift in nine is none at 16 pixels"
    assert len(seen[False]) == 2 * 12 and all(seen[False])


@pytest.mark.parametrize(
    ("encoder", "change", "message"),
    [
        (None, {"history": 2}, "history 2 has no meaning for a policy whose encoder is blind"),
        ("none", {"proprio": False}, "proprio off has no meaning for a policy whose encoder is blind"),
        ("random:vit-nano/8@16", {"head": "flow", "pooling": "tokens", "proprio": False}, "choose pooling attentive"),
        ("none", {"augment": "shift"}, "augment shift has no meaning for a policy whose encoder is blind"),
        ("state", {"augment": "shift"}, "augment shift has no meaning for a policy whose encoder is state"),
        ("scratch", {"pooling": "cls"}, "pooling cls has no meaning for a policy whose encoder is scratch"),
        ("scratch", {"finetune": True}, "finetune has no meaning for a policy whose encoder is scratch"),
        ("random:vit-nano/8@16", {"pooling": "tokens"}, "choose pooling attentive"),
        ("random:vit-nano/8@16", {"pooling": "max"}, "unknown pooling 'max'"),
        ("random:vit-nano/8@16", {"cameras": ("top",)}, "no camera 'top'"),
        ("random:vit-nano/8@16", {"device": "tpu"}, "'tpu' is not a device"),
    ],
)
def test_settings_that_do_not_go_together_leave_no_folder(make_data, tmp_path, encoder, change, message):
    with pytest.raises(UserError, match=message):
        train_bc(make_data(count=2), encoder, tmp_path / "run", replace(QUICK, **change))
    assert not (tmp_path / "run").exists()


def test_no_data_is_an_error(tmp_path):
    with pytest.raises(UserError, match="give at least one file"):
        train_bc([], None, tmp_path / "run", QUICK)


def test_half_precision_embeddings_train_too(make_data, tmp_path, own_cache):
    data, encoder = make_data(count=4), FrozenEncoder.load("random:vit-nano/8@16")
    whole = load_policy(train_bc(data, encoder, tmp_path / "whole", QUICK), encoder)
    half = load_policy(train_bc(data, encoder, tmp_path / "half", replace(QUICK, half_cache=True)), encoder)
    assert whole.fingerprint != half.fingerprint
    for name, value in whole.network.stored_state().items():
        assert torch.allclose(value, half.network.stored_state()[name], atol=2e-2), name
    assert len(EmbeddingCache.default().entries()) == 2
