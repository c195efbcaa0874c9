"""Task ids ``suite/task`` and the suites behind them.

A new suite is one module with a ``SUITE`` object, and one line in ``BUILT_IN`` or an entry point in another package.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from rsp_robot.errors import UserError, unknown_name

if TYPE_CHECKING:
    from rsp_robot.envs.base import VisualEnv
    from rsp_robot.envs.experts import Expert
    from rsp_robot.envs.variation import Variation

ENTRY_POINT_GROUP = "rsp_robot.envs"
BUILT_IN = {
    "metaworld": "rsp_robot.envs.metaworld:SUITE",
    "robosuite": "rsp_robot.envs.robosuite:SUITE",
    "dmc": "rsp_robot.envs.dmc:SUITE",
    "kitchen": "rsp_robot.envs.kitchen:SUITE",
    "fetch": "rsp_robot.envs.fetch:SUITE",
    "adroit": "rsp_robot.envs.adroit:SUITE",
}


@dataclass(frozen=True)
class TaskDescription:
    """What one task is, without starting a simulator."""

    task: str
    """Full id, ``suite/task``."""
    summary: str
    """What the robot has to do, one line."""
    cameras: tuple[str, ...]
    """Names that ``make(..., cameras=...)`` takes."""
    default_camera: str
    """The camera used when none is named."""
    proprio: tuple[str, ...]
    """Name and unit of each number in ``observation["proprio"]``."""
    action: tuple[str, ...]
    """Meaning of each number of the action, all in [-1, 1]."""
    horizon: int
    """Steps after which an episode is truncated, unless another horizon is asked for."""
    fps: float
    """Control steps per simulated second."""
    success: str
    """What ``info["success"]`` means."""
    expert: str
    """Who demonstrates the task; empty if nobody."""
    packages: tuple[str, ...]
    """Packages whose versions decide what an episode looks like."""
    licence: str
    """Licence of the suite, and how it is installed."""


class Suite(Protocol):
    """What a suite's ``SUITE`` object offers. Names here are task names without the suite's prefix."""

    name: str
    """Prefix of its task ids."""
    package: str
    """The package to be imported; its absence is reported before anything is."""
    extra: str
    """The extra of rsp-robot that installs it."""

    def tasks(self) -> tuple[str, ...]:
        """Return all task names."""

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without importing the simulator."""

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> VisualEnv:
        """Build the environment. Arguments, package and OpenGL were checked before; MuJoCo is not imported yet."""

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Return the demonstrator that acts on ``env``."""


def suites() -> dict[str, str]:
    """Return ``{suite: "module:object"}``: the built-in ones and those of other packages (group ``rsp_robot.envs``)."""
    offered = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {**offered, **BUILT_IN}


def load_suite(name: str) -> Suite:
    """Import a suite by name.

    Raises:
        UserError: there is no such suite.
    """
    known = suites()
    if name not in known:
        raise unknown_name("suite", name, known)
    module, _, attribute = known[name].partition(":")
    suite: Suite = getattr(import_module(module), attribute)
    return suite


def list_tasks(suite: str | None = None) -> list[str]:
    """Return the task ids of one suite, or of all, sorted."""
    names = [suite] if suite is not None else sorted(suites())
    return sorted(f"{name}/{task}" for name in names for task in load_suite(name).tasks())


def find_task(task: str) -> tuple[Suite, str]:
    """Split a task id and load its suite.

    Raises:
        UserError: no such task; the message has the nearest names.
    """
    prefix, _, name = task.partition("/")
    if prefix in suites():
        suite = load_suite(prefix)
        if name in suite.tasks():
            return suite, name
    raise unknown_name("task", task, list_tasks())


def describe(task: str) -> TaskDescription:
    """Describe a task: cameras, proprioception, horizon, what success means, licence. Starts no simulator.

    >>> describe("metaworld/push-v3").action[-1]
    'gripper effort (close +)'
    """
    suite, name = find_task(task)
    return suite.describe(name)


def make(
    task: str,
    *,
    cameras: str | tuple[str, ...] | list[str] | None = None,
    image_size: int = 64,
    quality: str = "lean",
    horizon: int | None = None,
    state: bool = False,
    variation: Variation | None = None,
) -> VisualEnv:
    """Make an environment (see :class:`rsp_robot.envs.base.VisualEnv` for what it returns).

    Args:
        task: id such as ``"metaworld/push-v3"``; :func:`list_tasks` has them all.
        cameras: camera names, each of which becomes an observation; None for the task's default camera, ``()`` to
            render nothing.
        image_size: side of the pictures in pixels, 16 to 2048.
        quality: ``"lean"`` (no multisampling, shadows or reflections; fast) or ``"full"``.
        horizon: steps until truncation; None for the task's own.
        state: whether the observation also holds the simulator's ``"state"``, which no camera policy should see.
        variation: how much camera, light and colours differ from episode to episode; by default they do not.

    Raises:
        UserError: unknown task, camera or quality, a size or horizon out of range, the suite is not installed, or there
            is no OpenGL.
    """
    from rsp_robot.envs.base import LARGEST_IMAGE
    from rsp_robot.envs.rendering import QUALITIES, before_mujoco, find_backend

    suite, name = find_task(task)
    description = suite.describe(name)
    chosen = check_cameras(description, cameras)
    if not 16 <= image_size <= LARGEST_IMAGE:
        raise UserError(f"image_size={image_size} is out of range; choose 16 to {LARGEST_IMAGE} pixels")
    if quality not in QUALITIES:
        raise unknown_name("quality", quality, QUALITIES)
    steps = description.horizon if horizon is None else horizon
    if steps < 1:
        raise UserError(f"horizon={steps} is out of range; choose at least 1 step")
    if find_spec(suite.package) is None:
        raise UserError(f"{task} needs the package {suite.package}; pip install 'rsp-robot[{suite.extra}]'")
    if chosen:
        find_backend()
    before_mujoco()
    env = suite.make(name, chosen, image_size, quality, steps)
    if state:
        env.show_state()
    if variation is not None and variation.amounts:
        env.vary(variation)
    return env


def check_cameras(description: TaskDescription, cameras: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """Return the camera names as a tuple, the default one for None.

    Raises:
        UserError: a name is unknown or given twice.
    """
    if cameras is None:
        return (description.default_camera,)
    chosen = (cameras,) if isinstance(cameras, str) else tuple(cameras)
    for camera in chosen:
        if camera not in description.cameras:
            raise unknown_name(f"camera of {description.task}", camera, description.cameras)
    if len(set(chosen)) != len(chosen):
        raise UserError(f"a camera is named twice in {', '.join(chosen)}; name each once")
    return chosen
