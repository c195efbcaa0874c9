from __future__ import annotations

import mujoco
import numpy as np

from rsp_robot.envs.physics import Physics

XML = """<mujoco><worldbody><geom type="plane" size="2 2 .1"/>
<body pos="0 0 .3"><freejoint/><geom size=".1 .1 .1" type="box"/></body></worldbody></mujoco>"""


def simulation() -> tuple[mujoco.MjModel, mujoco.MjData, Physics]:
    model = mujoco.MjModel.from_xml_string(XML)
    data = mujoco.MjData(model)
    data.qvel[:] = (0.3, 0.1, 0, 2, 1, 0)
    return model, data, Physics(model, data)


def test_a_state_continues_bit_for_bit_elsewhere() -> None:
    model, data, physics = simulation()
    mujoco.mj_step(model, data, nstep=200)  # in contact, where the warm start matters
    state = physics.get()
    other_model, other, elsewhere = simulation()
    elsewhere.set_forward(state)
    np.testing.assert_array_equal(elsewhere.get(), state)
    mujoco.mj_step(model, data, nstep=50)
    mujoco.mj_step(other_model, other, nstep=50)
    np.testing.assert_array_equal(elsewhere.get(), physics.get())
    assert state.shape == (physics.size,) and not np.array_equal(state, physics.get())


def test_what_follows_from_a_state_is_computed_only_when_asked_for() -> None:
    model, data, physics = simulation()
    mujoco.mj_forward(model, data)
    state, before = physics.get(), data.xpos[1].copy()
    mujoco.mj_step(model, data, nstep=20)
    mujoco.mj_forward(model, data)
    after = data.xpos[1].copy()
    physics.set(state)
    np.testing.assert_array_equal(data.xpos[1], after)
    physics.set_forward(state)
    np.testing.assert_array_equal(data.xpos[1], before)
