from __future__ import annotations

from contextlib import ExitStack

import h5py
import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies import bc_data as module
from rsp_robot.policies.bc_data import Rows, assemble, measure, read_frames
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.episodes import read_recording


def load(*paths, embeddings=None, normalise="none", state=False, **options):
    with ExitStack() as stack:
        files = [stack.enter_context(DemonstrationFile(path)) for path in paths]
        recording = read_recording(files, "executed", state)
        seen = None if embeddings is None else [embeddings(file) for file in files]
        return assemble(files, recording, measure(files, recording, normalise), seen, **options)


def embed_with(encoder, *cameras):
    def embed(file):
        return [
            np.concatenate([encode_rows(encoder, file.read_frames(i, c)) for i in range(len(file))]) for c in cameras
        ]

    return embed


def test_rows_are_split_by_the_masks_and_hold_what_belongs_together(make_data, encoder):
    path = make_data(count=10, cameras=("front", "side"))
    data = load(path, embeddings=embed_with(encoder, "side", "front"))
    with DemonstrationFile(path) as file:
        assert file.valid == (9,)
        held_out = file.read(9)
        train = np.concatenate([file.read(i).observations["proprio"] for i in file.train])
    valid = data.vectors[data.valid]
    assert valid.shape == (len(held_out), 6 + 6 + 3) and len(data.train) == len(train)
    embedding = np.concatenate([encode_rows(encoder, held_out.observations[c]) for c in ("side", "front")], axis=1)
    assert np.array_equal(valid[:, :12], embedding)
    mean, std = train.astype(np.float64).mean(0), train.astype(np.float64).std(0)
    expected = (held_out.observations["proprio"][:, :2] - mean[:2]) / std[:2]
    assert np.allclose(valid[:, 12:14], expected, atol=1e-5)
    assert (data.vectors[data.train][:, 14] == 0).all(), "proprioception that never varies is 0"
    assert np.array_equal(data.actions[data.valid], held_out.actions)


def test_blind_features_are_proprioception_alone(make_data):
    data = load(make_data(cameras=()))
    assert data.vectors.shape[1] == 3 and data.pictures is None
    assert abs(float(data.vectors[data.train, 0].mean())) < 1e-6


def test_the_state_is_standardised_and_has_a_history_like_any_embedding(make_data):
    path = make_data(count=3)
    data = load(path, state=True, history=2, fusion="difference")
    assert data.vectors.shape[1] == 2 * 4 + 3
    with DemonstrationFile(path) as file:
        states = np.concatenate([file.read(i).observations["state"] for i in range(3)])
        train = np.concatenate([file.read(i).observations["state"] for i in file.train])
    scaled = (states - train.mean(0)) / train.std(0)
    assert np.allclose(data.vectors[1, :8], np.r_[scaled[1] - scaled[0], scaled[1]], atol=1e-4)


def test_samples_do_not_leave_their_episode(make_data):
    data = load(make_data(count=2))  # 10 and 11 steps
    rows = torch.tensor([8, 10])
    vectors = data.observations(rows, steps=4).vector
    assert torch.equal(vectors[0], data.vectors[[8, 9, 9, 9]]) and torch.equal(
        vectors[1], data.vectors[[10, 11, 12, 13]]
    )
    actions, mask = data.targets(rows, steps=4)
    assert torch.equal(actions[0], data.actions[[8, 9, 9, 9]])
    assert mask.tolist() == [[True, True, False, False], [True, True, True, True]]
    assert data.targets(rows)[1].all()


def test_pictures_of_a_sample_reach_back_by_the_history(make_data):
    path = make_data(count=2, cameras=("front", "side"))
    data = load(path, embeddings=lambda file: read_frames([file], ("front", "side"))[0], live=True)
    sample = data.observations(torch.tensor([0, 12]), steps=2, history=3)
    assert sample.pictures.shape == (2, 4, 2, 16, 16, 3) and sample.pictures.dtype == torch.uint8
    with DemonstrationFile(path) as file:
        front, side = file.read_frames(0, "front"), file.read_frames(1, "side")
    assert np.array_equal(sample.pictures[0, :, 0], front[[0, 0, 0, 1]])
    assert np.array_equal(sample.pictures[1, :, 1], side[[0, 1, 2, 3]])


def test_half_precision_is_widened_when_it_is_used(make_data, encoder):
    halved = lambda file: [embed_with(encoder, "front")(file)[0].astype(np.float16)]  # noqa: E731
    path = make_data(count=2)
    assert load(path, embeddings=halved).vectors.dtype == torch.float32
    assert load(path, embeddings=halved, live=True).observations(torch.tensor([0])).pictures.dtype == torch.float32


def test_episodes_in_quarantine_leave_no_rows(make_data, encoder):
    path = make_data(count=4)
    whole = load(path, embeddings=embed_with(encoder, "front"), normalise="range")
    with h5py.File(path, "r+") as file:
        file["data/demo_1/actions"][0] = np.nan
    left = load(path, embeddings=embed_with(encoder, "front"))
    assert len(left.vectors) == len(whole.vectors) - 11
    assert torch.equal(left.vectors[10:22, :6], whole.vectors[21:33, :6]), "pictures stay beside their actions"
    assert left.first[10:22].unique().tolist() == [10] and left.last[10:22].unique().tolist() == [21]


def test_files_are_put_together_in_order(make_data, encoder):
    paths = [make_data("a.hdf5", count=2, task="toy/a"), make_data("b.hdf5", count=3, first_seed=7, task="toy/b")]
    embed = embed_with(encoder, "front")
    both, second = load(*paths, embeddings=embed), load(paths[1], embeddings=embed)
    assert both.task.tolist() == [0] * 21 + [1] * len(second.vectors)
    assert torch.equal(both.vectors[21:, :6], second.vectors[:, :6])
    assert torch.equal(both.actions[21:], second.actions)
    assert (both.first[21:] - 21).tolist() == second.first.tolist()
    assert len(both.train) == 10 + 21, "each file has its own masks"


def test_actions_are_scaled_by_the_training_episodes(make_data):
    path = make_data(count=10)
    data = load(path, normalise="range")
    train = data.actions[data.train]
    assert torch.allclose(train.amin(dim=0), torch.tensor(-1.0)) and torch.allclose(
        train.amax(dim=0), torch.tensor(1.0)
    )


def test_rows_of_several_arrays_read_in_any_order():
    arrays = [np.arange(6).reshape(3, 2), np.arange(6, 10).reshape(2, 2)]
    rows = Rows([[arrays[0], -arrays[0]], [arrays[1], -arrays[1]]], np.array([4, 0, 2]))
    assert len(rows) == 3 and rows.shape == (2, 2)
    assert rows.take(np.array([[1, 0], [2, 2]])).tolist() == [
        [[[0, 1], [0, -1]], [[8, 9], [-8, -9]]], [[[4, 5], [-4, -5]], [[4, 5], [-4, -5]]],
    ]  # fmt: skip


def test_pictures_that_do_not_fit_are_refused_with_both_sizes(make_data, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 10_000)
    with DemonstrationFile(make_data(count=2)) as file:
        with pytest.raises(UserError, match=r"need 0\.0 GB of memory, 0\.0 GB are available; use fewer"):
            read_frames([file], ("front",))
        monkeypatch.setattr(module, "available_memory", lambda: 21 * 16 * 16 * 3)
        assert read_frames([file], ("front",))[0][0].shape == (21, 16, 16, 3)
