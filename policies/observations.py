"""Is this observation what the policy was trained on? If not, say what is wrong in one line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rsp_robot.errors import UserError


def check_frames(observations: Mapping[str, np.ndarray], camera: str, image_size: int | None) -> np.ndarray:
    """Return the pictures of a camera, uint8 ``(B, H, W, 3)``.

    Args:
        observations: of a step.
        camera: its name.
        image_size: side of the pictures in training; None accepts every size.

    Raises:
        UserError: there are none, or they are of another type, layout or size.
    """
    if camera not in observations:
        raise UserError(
            f"the policy looks through camera {camera!r}, the observation has {', '.join(observations) or 'nothing'}; "
            f"make the environment with this camera"
        )
    frames = np.asarray(observations[camera])
    if frames.dtype != np.uint8:
        raise UserError(
            f"pictures of {camera} are {frames.dtype}, the policy takes uint8 from 0 to 255; give them as they were "
            "rendered"
        )
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[3] != 3:
        raise UserError(
            f"pictures of {camera} have shape {frames.shape}, channels first; give (batch, height, width, 3), as "
            "frames.transpose(0, 2, 3, 1) does"
        )
    if frames.ndim != 4 or frames.shape[3] != 3:
        raise UserError(f"pictures of {camera} have shape {frames.shape}; give (batch, height, width, 3)")
    if image_size is not None and frames.shape[1:3] != (image_size, image_size):
        raise UserError(
            f"the policy was trained on pictures of {image_size} pixels, got {frames.shape[1:3]} from {camera}; set "
            f"image_size to {image_size}"
        )
    return frames


def check_vector(observations: Mapping[str, np.ndarray], key: str, width: int) -> np.ndarray:
    """Return a part of the observation that is a row of numbers, float32 ``(B, width)``.

    Raises:
        UserError: it is not there, or of another width than in training.
    """
    name = {"proprio": "proprioception", "state": "the state"}.get(key, key)
    if key not in observations:
        fix = "make the environment with state=True" if key == "state" else "give it with the pictures"
        raise UserError(f"the observation has no {key!r}, only {', '.join(observations) or 'nothing'}; {fix}")
    values = np.asarray(observations[key], np.float32)
    if values.ndim != 2 or values.shape[1] != width:
        raise UserError(
            f"the policy was trained with {width} numbers of {name}, got shape {values.shape}; use the task it was "
            "trained on"
        )
    return values
