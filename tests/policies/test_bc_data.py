from __future__ import annotations

import h5py
import numpy as np
import pytest

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies.bc_data import choose_cameras, load_bc_data, proprio_statistics, read_vectors, standardise
from rsp_robot.policies.embeddings import encode_rows


def load(path, encoder, cameras, tmp_path, labels="executed"):
    with DemonstrationFile(path) as data:
        return load_bc_data(data, read_vectors(data, labels), "hash", encoder, cameras, tmp_path / "cache")


def test_standardised_by_hand():
    mean, std = proprio_statistics(np.array([[0.0, 7.0], [4.0, 7.0]]))
    assert mean.tolist() == [2, 7] and std.tolist() == [2, 1]
    assert standardise(np.array([[6.0, 8.0]]), mean, std).tolist() == [[2, 1]]


def test_rows_are_split_by_the_masks_and_hold_what_belongs_together(make_data, make_encoder, tmp_path):
    path = make_data(count=10, cameras=("front", "side"))
    encoder = make_encoder()
    data = load(path, encoder, ("side", "front"), tmp_path)
    with DemonstrationFile(path) as file:
        assert file.valid == (9,)
        held_out = file.read(9)
        train = np.concatenate([file.read(i).observations["proprio"] for i in file.train])
    assert data.valid_features.shape == (len(held_out), 6 + 6 + 3)
    assert len(data.train_features) == len(train) == len(data.train_actions)
    embedding = np.concatenate([encode_rows(encoder, held_out.observations[c]) for c in ("side", "front")], axis=1)
    assert np.allclose(data.valid_features[:, :12], embedding, atol=1e-6)
    mean, std = train.astype(np.float64).mean(0), train.astype(np.float64).std(0)
    expected = (held_out.observations["proprio"][:, :2] - mean[:2]) / std[:2]
    assert np.allclose(data.valid_features[:, 12:14], expected, atol=1e-5)
    assert (data.train_features[:, 14] == 0).all(), "proprioception that never varies is 0"
    assert np.array_equal(data.valid_actions, held_out.actions)


def test_blind_features_are_proprioception_alone(make_data, tmp_path):
    data = load(make_data(cameras=()), None, (), tmp_path)
    assert data.train_features.shape[1] == 3
    assert abs(float(data.train_features[:, 0].mean())) < 1e-6
    assert not (tmp_path / "cache").exists()


def test_actions_are_clipped_and_labels_chosen(make_data, tmp_path):
    path = make_data(count=2)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][0] = [1.7, -3.0]
        wanted = file["data/demo_0/expert_actions"][()]
    assert load(path, None, (), tmp_path).train_actions[0].tolist() == [1, -1]
    for labels in ("expert", "auto"):
        assert np.array_equal(load(path, None, (), tmp_path, labels).train_actions, wanted)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/expert_actions"]
    with pytest.raises(UserError, match="does not hold the expert's own actions; use labels executed"):
        load(path, None, (), tmp_path, "expert")
    assert load(path, None, (), tmp_path, "auto").train_actions[0].tolist() == [1, -1]


def test_choose_cameras(make_data):
    with DemonstrationFile(make_data(count=2, cameras=("front", "side"))) as data:
        assert choose_cameras(data, (), blind=True) == ()
        assert choose_cameras(data, (), blind=False) == ("front", "side")
        assert choose_cameras(data, ("side",), blind=False) == ("side",)
        with pytest.raises(UserError, match="no camera 'top'; choose one of: front, side"):
            choose_cameras(data, ("top",), blind=False)
    without = make_data("none.hdf5", count=2, cameras=())
    with DemonstrationFile(without) as data, pytest.raises(UserError, match="no pictures"):
        choose_cameras(data, (), blind=False)


def test_bad_data_is_refused(make_data, tmp_path):
    path = make_data(count=2)
    with h5py.File(path, "r+") as file:
        file["data/demo_1/actions"][3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        load(path, None, (), tmp_path)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((11, 3), np.float32)
    with pytest.raises(UserError, match="of different widths"):
        load(path, None, (), tmp_path)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs/proprio"]
    with pytest.raises(UserError, match="no obs/proprio in demonstration 1"):
        load(path, None, (), tmp_path)
