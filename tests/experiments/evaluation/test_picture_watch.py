from __future__ import annotations

import numpy as np
import pytest

from rsp_robot.experiments.evaluation.picture_watch import SAME_PICTURES, ContextLostError, PictureWatch, of_one_colour

RNG = np.random.default_rng(0)
SCENE = {name: RNG.integers(0, 255, (16, 16, 3), dtype=np.uint8) for name in ("front", "side")}
BLACK = np.zeros((16, 16, 3), np.uint8)


class Views:
    """What each camera shows; counts how often one looked."""

    def __init__(self, **views: np.ndarray) -> None:
        self.views, self.looked = SCENE | views, 0

    def render(self, camera: str, size: int) -> np.ndarray:
        self.looked += 1
        return self.views[camera]


def observe(watch: PictureWatch, picture: np.ndarray, step: int) -> None:
    watch.look({"front": picture, "proprio": np.full(2, step, np.float32)})


def test_black_pictures_are_noticed_at_once_and_a_wall_is_not_taken_for_them(toy_suite):
    lost = PictureWatch(Views(front=BLACK, side=BLACK), "toy/reach", ("front",))
    observe(lost, SCENE["front"], 0)
    with pytest.raises(ContextLostError, match="one colour: the OpenGL context is lost"):
        observe(lost, BLACK, 1)
    at_a_wall = Views(front=BLACK)
    watch = PictureWatch(at_a_wall, "toy/reach", ("front",))
    for step in range(100):
        observe(watch, BLACK, step)
    assert at_a_wall.looked == 2 * (7 + 4), "at pictures 1, 2, 4 ... 64, and after 8, 16, 32 and 64 equal ones"


def test_pictures_that_stand_still_while_the_robot_moves_are_noticed(toy_suite):
    stale = PictureWatch(Views(side=SCENE["front"]), "toy/reach", ("front",))
    with pytest.raises(ContextLostError, match="the same picture"):
        for step in range(SAME_PICTURES + 1):
            observe(stale, SCENE["front"], step)
    out_of_sight = Views()
    watch = PictureWatch(out_of_sight, "toy/reach", ("front",))
    for step in range(100):
        observe(watch, SCENE["front"], step)
    assert out_of_sight.looked == 2 * 4, "at 8, 16, 32 and 64 equal pictures"


def test_nothing_is_doubted_while_pictures_change_or_nothing_moves(toy_suite):
    env = Views()
    watch = PictureWatch(env, "toy/reach", ("front",))
    for step in range(50):
        observe(watch, SCENE["front"] + np.uint8(step), step)
    for _ in range(50):
        observe(watch, SCENE["front"], 0)
    PictureWatch(env, "toy/reach", ()).look({"proprio": np.zeros(2)})
    assert env.looked == 0


def test_of_one_colour():
    assert of_one_colour(BLACK) and of_one_colour(BLACK + np.array([1, 2, 3], np.uint8))
    odd = np.zeros((20, 20, 3), np.uint8)
    odd[7, 9, 1] = 1
    assert not of_one_colour(odd)
