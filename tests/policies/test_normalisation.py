from __future__ import annotations

import numpy as np
import pytest

from rsp_robot.policies.normalisation import action_scaling, standard_scaling

ACTIONS = np.array([[-0.5, 0.3, 0.0], [0.5, 0.3, 0.2], [0.1, 0.3, 0.1]])


def test_proprioception_by_hand():
    scaling = standard_scaling(np.array([[0.0, 7.0], [4.0, 7.0]]))
    assert scaling.shift.tolist() == [2, 7] and scaling.scale.tolist() == [2, 1]
    assert scaling.apply(np.array([[6.0, 8.0]])).tolist() == [[2, 1]]


def test_range_maps_the_smallest_and_the_largest_to_the_ends():
    scaled = action_scaling(ACTIONS, "range").apply(ACTIONS)
    assert np.allclose(scaled[:, 0], [-1, 1, 0.2]) and np.allclose(scaled[:, 2], [-1, 1, 0])


def test_standard_gives_mean_zero_and_deviation_one():
    scaled = action_scaling(ACTIONS, "standard").apply(ACTIONS)[:, [0, 2]]
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-6) and np.allclose(scaled.std(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "standard", "range"])
def test_what_never_varies_is_left_alone_and_everything_comes_back(kind):
    scaling = action_scaling(ACTIONS, kind)
    assert (scaling.shift[1], scaling.scale[1]) == (0, 1)
    assert np.allclose(scaling.undo(scaling.apply(ACTIONS)), ACTIONS, atol=1e-6)
    assert scaling.apply(ACTIONS).dtype == scaling.undo(ACTIONS).dtype == np.float32


def test_none_does_nothing():
    assert np.array_equal(action_scaling(ACTIONS, "none").apply(ACTIONS), ACTIONS.astype(np.float32))
