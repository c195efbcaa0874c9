"""Noticing a lost OpenGL context by its pictures: a driver that lost it often reports nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsp_robot.envs import describe

SAME_PICTURES = 8
"""Equal pictures in a row, while the robot moves, that give cause for doubt."""


class ContextLostError(Exception):
    """The pictures no longer show the scene."""


class PictureWatch:
    """Looks at each observation of an episode.

    Black and stale pictures are what a lost context gives, but a camera pressed against a table sees one colour too,
    and a gripper may move out of sight. In doubt the scene is looked at through all cameras: they cannot all show one
    colour, nor all the same. Doubt that was answered comes back after twice as many pictures, so that a scene in which
    nothing changes costs little.
    """

    def __init__(self, env: Any, task: str, cameras: tuple[str, ...]) -> None:
        """Watch the pictures of ``cameras``, none for a blind policy."""
        self.env, self.task, self.cameras = env, task, cameras
        self._before: dict[str, np.ndarray] = {}
        self._flat = self._same = 0

    def look(self, observation: dict[str, np.ndarray]) -> None:
        """Look at the next observation.

        Raises:
            ContextLostError: the context is gone.
        """
        if not self.cameras:
            return
        pictures = [observation[camera] for camera in self.cameras]
        self._flat = self._flat + 1 if any(of_one_colour(picture) for picture in pictures) else 0
        self._same = self._same + 1 if self._stands_still(observation) else 0
        self._before = observation
        doubts = [self._flat, self._same // SAME_PICTURES if self._same % SAME_PICTURES == 0 else 0]
        if any(doubt and doubt & (doubt - 1) == 0 for doubt in doubts):
            self._verify(pictures[0].shape[0])

    def _stands_still(self, observation: dict[str, np.ndarray]) -> bool:
        """Whether all pictures are those of the step before, although the robot feels that it moved."""
        if not self._before or np.array_equal(observation["proprio"], self._before["proprio"]):
            return False
        return all(np.array_equal(observation[camera], self._before[camera]) for camera in self.cameras)

    def _verify(self, size: int) -> None:
        views = [self.env.render(camera=camera, size=size) for camera in describe(self.task).cameras]
        if all(of_one_colour(view) for view in views):
            raise ContextLostError("every camera gives a picture of one colour: the OpenGL context is lost")
        if len(views) > 1 and all(np.array_equal(view, views[0]) for view in views):
            raise ContextLostError("every camera gives the same picture: the OpenGL context is lost")


def of_one_colour(picture: np.ndarray) -> bool:
    """Whether all pixels ``(H, W, 3)`` are the same."""
    first = picture[0, 0]
    return bool((picture[::16, ::16] == first).all() and (picture == first).all())
