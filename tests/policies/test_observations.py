from __future__ import annotations

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.policies.observations import check_frames, check_vector

FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


def test_good_observations_pass():
    assert check_frames({"front": FRAMES}, "front", 16) is FRAMES
    assert check_frames({"front": FRAMES}, "front", None) is FRAMES
    assert check_vector({"proprio": np.zeros((2, 3))}, "proprio", 3).dtype == np.float32


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES.astype(np.float32) / 255, "pictures of front are float32, the policy takes uint8 from 0 to 255"),
        (FRAMES.transpose(0, 3, 1, 2), r"channels first; give \(batch, height, width, 3\)"),
        (FRAMES[0], r"have shape \(16, 16, 3\); give \(batch"),
        (FRAMES[..., :1], r"have shape \(2, 16, 16, 1\)"),
        (FRAMES[:, :8, :8], r"trained on pictures of 16 pixels, got \(8, 8\) from front; set image_size to 16"),
        (FRAMES[:, :8], r"trained on pictures of 16 pixels, got \(8, 16\)"),
    ],
)
def test_pictures_unlike_those_in_training_give_one_line(frames, message):
    with pytest.raises(UserError, match=message) as caught:
        check_frames({"front": frames}, "front", 16)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="looks through camera 'top', the observation has front, proprio"):
        check_frames({"front": FRAMES, "proprio": np.zeros((2, 3))}, "top", 16)
    with pytest.raises(UserError, match="no 'proprio', only front"):
        check_vector({"front": FRAMES}, "proprio", 3)
    with pytest.raises(UserError, match="no 'state', only front; make the environment with state=True"):
        check_vector({"front": FRAMES}, "state", 3)


def test_another_width_is_told_with_both_numbers():
    with pytest.raises(UserError, match=r"trained with 3 numbers of proprioception, got shape \(2, 4\)"):
        check_vector({"proprio": np.zeros((2, 4))}, "proprio", 3)
    with pytest.raises(UserError, match="3 numbers of the state, got shape"):
        check_vector({"state": np.zeros(3)}, "state", 3)
