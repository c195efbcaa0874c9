from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs import rendering
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.metaworld import CAMERAS, MetaWorldEnv
from rsp_robot.envs.rendering import Backend, Camera, find_backend
from rsp_robot.errors import UserError

SCENES = ("metaworld/bin-picking-v3", "metaworld/door-open-v3")
CAMERA, SIZE, SEED, STEPS = "close", 48, 5, 4
ALONE = f"""
import sys
import numpy as np
from rsp_robot import envs
env = envs.make(sys.argv[1], cameras={CAMERA!r}, image_size={SIZE})
frames = [env.reset(seed={SEED})[0][{CAMERA!r}]]
frames += [env.step(np.full(4, 0.5))[0][{CAMERA!r}] for _ in range({STEPS})]
np.savez(sys.argv[2], frames=frames, state_hash=env.state_hash())
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Frames of each scene, rendered alone in a process of its own."""
    folder = tmp_path_factory.mktemp("references")
    paths = {task: folder / f"{index}.npz" for index, task in enumerate(SCENES)}
    running = [subprocess.Popen([sys.executable, "-c", ALONE, task, str(path)]) for task, path in paths.items()]
    assert [process.wait(120) for process in running] == [0, 0]
    return {task: dict(np.load(path)) for task, path in paths.items()}


def test_two_environments_with_different_scenes_keep_their_own_pictures(
    references: dict[str, dict[str, np.ndarray]],
) -> None:
    one, two = (references[task]["frames"].astype(int) for task in SCENES)
    assert np.abs(one - two).mean() > 5  # identical scenes would hide the fault

    def check(task: str, env: VisualEnv, steps: int) -> None:
        np.testing.assert_array_equal(env.reset(seed=SEED)[0][CAMERA], references[task]["frames"][0])
        for step in range(steps):
            picture = env.step(np.full(4, 0.5))[0][CAMERA]
            np.testing.assert_array_equal(picture, references[task]["frames"][1 + step], err_msg=f"{task} step {step}")

    first, second = (envs.make(task, cameras=CAMERA, image_size=SIZE) for task in SCENES)
    frames = {task: [env.reset(seed=SEED)[0][CAMERA]] for task, env in zip(SCENES, (first, second), strict=True)}
    for _ in range(STEPS):  # interleaved
        for task, env in zip(SCENES, (first, second), strict=True):
            frames[task].append(env.step(np.full(4, 0.5))[0][CAMERA])
    for task in SCENES:
        np.testing.assert_array_equal(frames[task], references[task]["frames"])

    first.close()
    check(SCENES[1], second, STEPS)  # after another one was closed
    third = envs.make(SCENES[0], cameras=CAMERA, image_size=SIZE)
    check(SCENES[0], third, 1)
    check(SCENES[1], second, 1)
    del third
    gc.collect()
    check(SCENES[1], second, STEPS)  # after another one was collected without being closed
    second.close()


def test_same_seed_is_the_same_state_in_another_process(references: dict[str, dict[str, np.ndarray]]) -> None:
    env = envs.make(SCENES[0], cameras=())
    env.reset(seed=SEED)
    assert env.state_hash() == str(references[SCENES[0]]["state_hash"])
    env.reset(seed=SEED + 1)
    assert env.state_hash() != str(references[SCENES[0]]["state_hash"])
    env.close()


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: nothing can go wrong")
@pytest.mark.parametrize("first", ["env", pytest.param("torch", marks=pytest.mark.slow)])
def test_an_optimiser_after_a_picture_does_not_crash(first: str) -> None:
    make = "from rsp_robot import envs; env = envs.make('metaworld/reach-v3', image_size=16); env.reset(seed=0); "
    code = f"{make}import torch" if first == "env" else f"import torch; {make}"
    code += "\np = torch.nn.Parameter(torch.zeros(1)); o = torch.optim.AdamW([p]); p.sum().backward(); o.step()"
    code += "\nenv.step(env.action_space.sample()); env.close(); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-2000:]


def test_nothing_is_printed_when_an_environment_is_left_open_at_exit() -> None:
    code = "from rsp_robot import envs; env = envs.make('metaworld/reach-v3', image_size=16); env.reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Upright and not mirrored: where the green goal ball appears against where geometry says it must.


@pytest.fixture(scope="module")
def push() -> Iterator[MetaWorldEnv]:
    names = tuple(camera.name for camera in CAMERAS)
    env = envs.make("metaworld/push-v3", cameras=names, image_size=160)
    assert isinstance(env, MetaWorldEnv)
    yield env
    env.close()


def axes_of(camera: Camera, env: VisualEnv) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return position, the picture's right and up directions in the world, and the field of view in degrees."""
    if camera.model_camera is not None:
        index = env.model.camera(camera.model_camera).id
        matrix = env.data.cam_xmat[index].reshape(3, 3)
        sign = -1.0 if camera.rotated else 1.0
        return env.data.cam_xpos[index], sign * matrix[:, 0], sign * matrix[:, 1], float(env.model.cam_fovy[index])
    azimuth, elevation = np.radians(camera.azimuth), np.radians(camera.elevation)
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    return np.array(camera.lookat) - camera.distance * forward, right, np.cross(right, forward), camera.fovy


@pytest.mark.parametrize("camera", [camera for camera in CAMERAS if camera.name != "gripperPOV"], ids=lambda c: c.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_pictures_are_upright_and_not_mirrored(camera: Camera, seed: int, push: MetaWorldEnv) -> None:
    picture = push.reset(seed=seed)[0][camera.name].astype(int)
    assert picture.shape == (160, 160, 3)
    red, green, blue = picture.transpose(2, 0, 1)
    rows, columns = np.nonzero((green > red + 60) & (green > blue + 60))
    assert len(rows) >= 4, "the goal is not in the picture"
    position, right, up, fovy = axes_of(camera, push)
    offset = push.simulator._target_pos - position  # where the goal is, whatever the picture shows
    scale = 80 / np.tan(np.radians(fovy / 2)) / (offset @ np.cross(up, right))
    assert abs(columns.mean() + 0.5 - (80 + scale * (offset @ right))) < 3
    assert abs(rows.mean() + 0.5 - (80 - scale * (offset @ up))) < 3
    if camera.name != "topview":
        assert up[2] > 0.3, "the world's up must be the picture's up"


def test_close_presets_show_the_object_larger(push: VisualEnv) -> None:
    observation = push.reset(seed=1)[0]

    def puck(name: str) -> int:
        red, green, blue = observation[name].astype(int).transpose(2, 0, 1)
        return int(((green > red + 60) & (green > blue + 60)).sum())

    assert puck("closer") > 2 * puck("close") > 4 * puck("corner2")


def test_quality_changes_the_picture_and_size_is_as_asked() -> None:
    pictures = {}
    for quality in ("lean", "full"):
        env = envs.make("metaworld/push-v3", cameras="corner2", image_size=32, quality=quality)
        pictures[quality] = env.reset(seed=0)[0]["corner2"].astype(int)
        assert env.render(size=64).shape == (64, 64, 3) and env.render("topview").shape == (480, 480, 3)
        with pytest.raises(UserError, match="a picture of 481 pixels was asked for; choose 1 to 480"):
            env.render(size=481)
        with pytest.raises(UserError, match="unknown camera 'corner9'"):
            env.render("corner9")
        env.close()
        env.close()
        with pytest.raises(RuntimeError, match="closed"):
            env.step(np.zeros(4))
    assert pictures["lean"].shape == (32, 32, 3)
    assert np.abs(pictures["lean"] - pictures["full"]).mean() > 1


def test_a_larger_picture_does_not_change_the_observation() -> None:
    env = envs.make("metaworld/push-v3", cameras="corner2", image_size=32)
    before = env.reset(seed=0)[0]["corner2"]
    env.render(size=240)
    np.testing.assert_array_equal(env.reset(seed=0)[0]["corner2"], before)
    env.close()


# Finding a backend.


LOST = """
import os, sys
from rsp_robot import envs
env = envs.make("metaworld/push-v3", cameras="close", image_size=48)
before = env.reset(seed=5)[0]["close"]
from OpenGL import GL
context = env._renderer._context
if sys.argv[1] == "framebuffer":
    GL.glDeleteFramebuffers(1, [context.offFBO])
else:
    GL.glDeleteRenderbuffers(1, [context.offColor])
try:
    said = env.render("close", 48).max()
except RuntimeError as error:
    said = error
print(before.std() > 20, said, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("gone", "said"),
    [("framebuffer", "OpenGL cannot draw any more (invalid framebuffer); its context is lost"), ("colours", "0")],
)
def test_a_context_that_lost_its_buffers_gives_an_error_or_black_and_no_older_picture(gone: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOST, gone], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"True {said}\n", done.stderr


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return an empty environment, and nothing found yet."""
    environment: dict[str, str] = {}
    monkeypatch.setattr(rendering, "_backend", None)
    monkeypatch.setattr(rendering, "os", SimpleNamespace(environ=environment))
    monkeypatch.setattr(rendering, "load_triton_first", lambda: None)
    return environment


def works(*names: str):  # type: ignore[no-untyped-def]
    return lambda name: (f"device of {name}", "") if name in names else (None, f"{name} is broken")


def test_egl_is_preferred_and_the_environment_set(fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_probe", works("egl", "osmesa"))
    assert find_backend() == Backend("egl", "device of egl")
    assert (fresh["MUJOCO_GL"], fresh["PYOPENGL_PLATFORM"], fresh["LP_NUM_THREADS"]) == ("egl", "egl", "0")
    monkeypatch.setattr(rendering, "_probe", works())
    assert find_backend().name == "egl"  # remembered
    monkeypatch.setattr(rendering, "_backend", None)
    assert find_backend().name == "egl"  # a child process trusts its parent


@pytest.mark.parametrize(("cards", "rank", "device"), [(4, "2", "2"), (2, "3", "1"), (1, "1", None), (4, "", None)])
def test_each_process_of_torchrun_draws_on_the_card_of_its_rank(
    fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cards: int, rank: str, device: str | None
) -> None:
    for number in range(cards):
        (tmp_path / f"nvidia{number}").touch()
    (tmp_path / "nvidiactl").touch()
    assert rendering.graphics_cards(tmp_path) == cards
    monkeypatch.setattr(rendering, "graphics_cards", lambda: cards)
    monkeypatch.setattr(rendering, "_probe", works("egl"))
    fresh["LOCAL_RANK"] = rank
    find_backend()
    assert fresh.get("MUJOCO_EGL_DEVICE_ID") == device
    fresh["MUJOCO_EGL_DEVICE_ID"] = "7"
    monkeypatch.setattr(rendering, "_backend", None)
    find_backend()
    assert fresh["MUJOCO_EGL_DEVICE_ID"] == "7", "the user's choice stays"


def test_osmesa_is_next_and_a_thread_count_of_the_users_stays(
    fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh["LP_NUM_THREADS"] = "3"
    monkeypatch.setattr(rendering, "_probe", works("osmesa"))
    assert find_backend().software
    assert (fresh["MUJOCO_GL"], fresh["PYOPENGL_PLATFORM"], fresh["LP_NUM_THREADS"]) == ("osmesa", "osmesa", "3")


def test_the_users_choice_is_the_only_one_tried(fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    fresh["MUJOCO_GL"] = "osmesa"
    monkeypatch.setattr(rendering, "_probe", works("egl"))
    with pytest.raises(
        UserError, match=r"MUJOCO_GL=osmesa is set but does not render \(osmesa: osmesa is broken\); unset"
    ):
        find_backend()
    assert fresh == {"MUJOCO_GL": "osmesa"}
    fresh["MUJOCO_GL"] = "wgl"
    with pytest.raises(UserError, match="MUJOCO_GL=wgl does not render off screen; unset it"):
        find_backend()


def test_no_opengl_names_the_packages_to_install(fresh: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_probe", works())
    with pytest.raises(
        UserError, match=r"egl: egl is broken, osmesa: osmesa is broken.*; install OpenGL: apt-get install libegl1"
    ) as caught:
        find_backend()
    assert "\n" not in str(caught.value)
    assert fresh == {}


def test_the_probe_sees_a_wrong_picture_and_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    name = find_backend().name
    device, reason = rendering._probe(name)
    assert device and not reason
    monkeypatch.setattr(rendering, "_PROBE", rendering._PROBE.replace('rgba="1 0 0 1"', 'rgba="0 0 1 1"'))
    device, reason = rendering._probe(name)
    assert device is None and reason.startswith("the picture is wrong: a red sphere came out as")
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.kill(os.getpid(), 11)")
    assert rendering._probe(name) == (None, "crashed with signal 11")


def test_backend_names_software() -> None:
    assert Backend("egl", "llvmpipe (LLVM 15.0.6, 256 bits)").software
    assert not Backend("egl", "NVIDIA H200/PCIe/SSE2").software


def test_a_promise_spares_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(rendering, "import_module", loaded.append)
    monkeypatch.setattr(rendering, "find_spec", lambda name: name)
    for modules, promised, expected in (
        ({}, False, ["triton"]),
        ({}, True, []),
        ({"torch": 1}, True, ["triton"]),
        ({"torch": 1, "triton": 1}, False, []),
    ):
        loaded.clear()
        monkeypatch.setattr(rendering, "sys", SimpleNamespace(modules=modules))
        monkeypatch.setattr(rendering, "_no_torch", promised)
        rendering.load_triton_first()
        assert loaded == expected


def test_forked_and_spawned_processes_draw_the_same_picture(tmp_path: Path) -> None:
    """A process that has drawn nothing yet may be forked; one that has is spawned from."""
    code = """
import multiprocessing, sys
import numpy as np
from rsp_robot import envs
from rsp_robot.envs.rendering import promise_no_torch

def picture(_):
    promise_no_torch()
    env = envs.make("metaworld/reach-v3", image_size=16)
    shown = env.reset(seed=0)[0]["corner2"]
    env.close()
    return shown

if __name__ == "__main__":
    shown = []
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            shown += pool.map(picture, [0])
    shown.append(picture(0))
    assert all(np.array_equal(other, shown[0]) for other in shown) and shown[0].std() > 5
"""
    script = tmp_path / "draw.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_paths_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendering works from any working folder."""
    monkeypatch.chdir(tmp_path)
    env = envs.make("metaworld/reach-v3", image_size=16)
    assert env.reset(seed=0)[0]["corner2"].std() > 5
    env.close()
