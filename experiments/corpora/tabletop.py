"""The corpus that the encoder `rsp-robot/small` was pretrained on: fifty-one tasks of three suites.

Source:    this project (docs/tabletop.md).
Command:   rsp-robot corpus tabletop --out data/tabletop
Hardware:  2 CPU cores, software OpenGL.
Hours:     docs/tabletop.md.
Expected:  three folders of packed frames, data/tabletop/packed/{metaworld,robosuite,fetch}, of 96 px.

Held out:  five tasks of Meta-World, each with an object that no other task has, and one of robosuite.
Seeds:     far from those that policies are trained (from 0) and evaluated (from 100,000) with.
"""

from __future__ import annotations

from rsp_robot.envs.metaworld import TASKS as METAWORLD
from rsp_robot.envs.variation import Variation
from rsp_robot.experiments.corpora.corpus import Corpus, Part

HELD_OUT = (
    "metaworld/basketball-v3",
    "metaworld/bin-picking-v3",
    "metaworld/box-close-v3",
    "metaworld/hammer-v3",
    "metaworld/shelf-place-v3",
    "robosuite/Stack",
)
SEEN = tuple(task for task in (f"metaworld/{name}" for name in METAWORLD) if task not in HELD_OUT)
ROBOSUITE = ("robosuite/Lift", "robosuite/PickPlaceCan", "robosuite/Door")
FETCH = ("fetch/Reach", "fetch/Push", "fetch/PickAndPlace")
VARIED = Variation(camera=1.0, light=1.0, colour=1.0)
PLAIN_SEED, VARIED_SEED, FULL_SEED = 500_000, 510_000, 520_000

CORPUS = Corpus(
    name="tabletop",
    image_size=96,
    parts=(
        Part("plain", SEEN, ("close", "closer", "corner2"), 8, PLAIN_SEED, horizon=250),
        Part("plain", ROBOSUITE, ("agentview", "robot0_eye_in_hand"), 12, PLAIN_SEED),
        Part("plain", FETCH, ("close", "external_camera_0"), 16, PLAIN_SEED),
        Part("varied", SEEN, ("close", "closer", "corner2"), 8, VARIED_SEED, horizon=250, vary=VARIED),
        Part("varied", ROBOSUITE, ("agentview", "robot0_eye_in_hand"), 12, VARIED_SEED, vary=VARIED),
        Part("varied", FETCH, ("close", "external_camera_0"), 16, VARIED_SEED, vary=VARIED),
        Part("full", SEEN, ("close",), 2, FULL_SEED, horizon=250, quality="full"),
        Part("full", ROBOSUITE, ("agentview",), 2, FULL_SEED, quality="full"),
        Part("full", FETCH, ("close",), 2, FULL_SEED, quality="full"),
    ),
    held_out=HELD_OUT,
)
QUICK = Corpus(
    name="tabletop (quick)",
    image_size=64,
    parts=(
        Part("plain", SEEN[:2], ("close",), 2, PLAIN_SEED, horizon=250),
        Part("varied", FETCH[:2], ("close",), 2, VARIED_SEED, vary=VARIED),
    ),
    held_out=HELD_OUT,
)
