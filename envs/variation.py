"""Domain randomisation: another camera pose, light and colours in every episode, with the same physics.

After Tobin et al., "Domain Randomization for Transferring Deep Neural Networks from Simulation to the Real World"
(IROS 2017). Only what is drawn changes: an episode of a seed starts and ends the same with any variation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rsp_robot.envs.rendering import Camera
from rsp_robot.errors import UserError

if TYPE_CHECKING:
    import mujoco

FREE_ANGLES = (15.0, 8.0)
"""Largest change of a free camera's azimuth and elevation, degrees."""
FREE_DISTANCE = 0.15
"""Largest change of its distance, as a share."""
FREE_LOOKAT = 0.03
"""Largest change of the point it looks at, metres along each axis."""
FIXED_SHIFT = 0.06
"""Largest change of the place of one of the model's cameras that stands in the world, metres along each axis."""
MOVING_SHIFT = 0.01
"""The same of one that moves with a body."""
FIXED_TURN = 5.0
"""Largest angle that one of the model's cameras is turned by, degrees."""
VIEW = 0.1
"""Largest change of the field of view, as a share."""
LIGHT_SHIFT = 0.5
"""Largest change of the place of a light, metres along each axis."""
BRIGHTNESS, LIGHT_TINT = 0.4, 0.1
"""Largest change of the brightness of a light, and of one of its colours, as shares."""
TINT, ADDED = 0.4, 0.1
"""Largest change of one colour of a surface: as a share, and then added, of 1."""
TRANSPARENT_GREY = np.asarray([0.5, 0.5, 0.5, 1.0], np.float32)
"""Colour of a geom that leaves its colour to its material."""


@dataclass(frozen=True)
class Variation:
    """How much what the cameras see differs from episode to episode: 0 is not at all, 1 much."""

    camera: float = 0.0
    """Pose and field of view of every camera."""
    light: float = 0.0
    """Place, brightness and colour of every light."""
    colour: float = 0.0
    """Colours of all surfaces; textures keep their patterns."""

    def __post_init__(self) -> None:
        for name, amount in asdict(self).items():
            if not 0 <= amount <= 1:
                raise UserError(f"variation of {name} {amount} must lie in [0, 1]; 0 turns it off")

    @property
    def amounts(self) -> dict[str, float]:
        """Those that are not 0, for the record."""
        return {name: amount for name, amount in asdict(self).items() if amount}


class VariedLook:
    """Gives a MuJoCo scene another look for each seed; everything is drawn around the look it was made with."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, variation: Variation) -> None:
        """Remember the scene's own look."""
        self._model, self._data, self.variation = model, data, variation
        self._cam_pos, self._cam_quat = model.cam_pos.copy(), model.cam_quat.copy()
        self._cam_fovy = model.cam_fovy.copy()
        self._light_pos, self._light_diffuse = model.light_pos.copy(), model.light_diffuse.copy()
        headlight = model.vis.headlight
        self._headlight = np.stack([headlight.ambient, headlight.diffuse])
        self._materials, self._geoms = model.mat_rgba[:, :3].copy(), model.geom_rgba[:, :3].copy()
        own_colour = (model.geom_matid < 0) | (model.geom_rgba != TRANSPARENT_GREY).any(axis=1)
        self._coloured = np.flatnonzero(own_colour)
        self._free: np.ndarray = np.zeros(7)

    def draw(self, seed: int) -> None:
        """Take on the look of ``seed``; physics is left as it is."""
        import mujoco

        # A generator for each: how much one varies does not change the others.
        camera, light, colour = (np.random.default_rng([seed, 0x100C, number]) for number in range(3))
        self._move_cameras(camera, self.variation.camera)
        self._change_lights(light, self.variation.light)
        self._change_colours(colour, self.variation.colour)
        mujoco.mj_camlight(self._model, self._data)

    def seen_by(self, camera: Camera) -> Camera:
        """Return a camera as it stands in this episode; those of the model have been moved already."""
        if camera.model_camera is not None or not self._free.any():
            return camera
        azimuth, elevation, distance, view, *shift = self._free
        return replace(
            camera,
            azimuth=camera.azimuth + azimuth,
            elevation=float(np.clip(camera.elevation + elevation, -90.0, 90.0)),
            distance=camera.distance * (1.0 + distance),
            fovy=camera.fovy * (1.0 + view),
            lookat=(camera.lookat[0] + shift[0], camera.lookat[1] + shift[1], camera.lookat[2] + shift[2]),
        )

    def _move_cameras(self, generator: np.random.Generator, amount: float) -> None:
        model = self._model
        largest = np.asarray([*FREE_ANGLES, FREE_DISTANCE, VIEW, *[FREE_LOOKAT] * 3])
        self._free = amount * largest * generator.uniform(-1.0, 1.0, 7)
        shift = np.where(model.cam_bodyid == 0, FIXED_SHIFT, MOVING_SHIFT)[:, None]
        model.cam_pos[:] = self._cam_pos + amount * shift * generator.uniform(-1.0, 1.0, self._cam_pos.shape)
        model.cam_fovy[:] = self._cam_fovy * (1.0 + amount * VIEW * generator.uniform(-1.0, 1.0, self._cam_fovy.shape))
        for index, before in enumerate(self._cam_quat):
            turn = _rotation(generator.normal(size=3), np.radians(amount * FIXED_TURN) * generator.uniform())
            model.cam_quat[index] = _product(before, turn)

    def _change_lights(self, generator: np.random.Generator, amount: float) -> None:
        model = self._model
        model.light_pos[:] = self._light_pos + amount * LIGHT_SHIFT * generator.uniform(-1, 1, self._light_pos.shape)
        bright = 1.0 + amount * BRIGHTNESS * generator.uniform(-1.0, 1.0, (len(self._light_diffuse) + 1, 1))
        colours = bright * (1.0 + amount * LIGHT_TINT * generator.uniform(-1.0, 1.0, (len(bright), 3)))
        model.light_diffuse[:] = np.clip(self._light_diffuse * colours[:-1], 0.0, 1.0)
        ambient, diffuse = np.clip(self._headlight * colours[-1], 0.0, 1.0)
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = ambient, diffuse

    def _change_colours(self, generator: np.random.Generator, amount: float) -> None:
        self._model.mat_rgba[:, :3] = _tinted(self._materials, generator, amount)
        self._model.geom_rgba[self._coloured, :3] = _tinted(self._geoms, generator, amount)[self._coloured]


def _tinted(colours: np.ndarray, generator: np.random.Generator, amount: float) -> np.ndarray:
    factor = 1.0 + amount * TINT * generator.uniform(-1.0, 1.0, colours.shape)
    return np.clip(colours * factor + amount * ADDED * generator.uniform(-1.0, 1.0, colours.shape), 0.0, 1.0)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Return the quaternion (w, x, y, z) of a rotation by ``angle`` radians."""
    unit = axis / np.linalg.norm(axis)
    return np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * unit])


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the quaternion of ``second``, then ``first``.

    >>> _product(_rotation(np.array([0, 0, 1.0]), 1.0), _rotation(np.array([0, 0, 1.0]), 0.5)).round(6).tolist()
    [0.731689, 0.0, 0.0, 0.681639]
    """
    w, v = first[0], first[1:]
    s, u = second[0], second[1:]
    return np.concatenate([[w * s - v @ u], w * u + s * v + np.cross(v, u)])
