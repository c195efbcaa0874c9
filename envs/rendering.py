"""Headless MuJoCo rendering: finding a working OpenGL, and one renderer per environment.

This module imports MuJoCo only inside :class:`OffscreenRenderer`, because MuJoCo and PyOpenGL read their environment
variables once, at import: :func:`find_backend` has to come first.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import weakref
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rsp_robot.errors import UserError, unknown_name

if TYPE_CHECKING:
    import mujoco

Quality = Literal["lean", "full"]
QUALITIES: tuple[str, ...] = ("lean", "full")
AUTOMATIC_BACKENDS = ("egl", "osmesa")
KNOWN_BACKENDS = ("egl", "osmesa", "glfw")
PROBE_TIMEOUT_S = 120.0
BUFFER_SIZE = 480
"""Smallest side of the framebuffer in pixels: a small observation and a larger video frame share one context."""
GL_ERRORS = {0x0505: "out of memory", 0x0506: "invalid framebuffer", 0x0507: "context lost"}
"""Errors after which pictures are wrong; drivers report others without harm."""
APT_FIX = (
    "install OpenGL: apt-get install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri (EGL), or apt-get install libosmesa6"
)
_CHECKED = "RSP_ROBOT_GL_CHECKED"  # tells child processes that their parent has tried this backend already

_PROBE = """
import os, sys
import numpy as np
import mujoco
from importlib import import_module
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1" rgba="1 0 0 1"/>'
    '<camera name="probe" pos="0 0 3"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
gl = import_module("mujoco." + os.environ["MUJOCO_GL"]).GLContext(64, 64)
gl.make_current()
context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
scene = mujoco.MjvScene(model, maxgeom=10)
camera = mujoco.MjvCamera()
camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
view = mujoco.MjrRect(0, 0, 64, 64)
pixels = np.zeros((64, 64, 3), np.uint8)
mujoco.mjr_render(view, scene, context)
mujoco.mjr_readPixels(pixels, None, view, context)
from OpenGL import GL
device = GL.glGetString(GL.GL_RENDERER).decode(errors="replace")
context.free()
gl.free()
red, green, blue = (int(value) for value in pixels[32, 32])
if not (red > 40 and red > 2 * green and red > 2 * blue):
    sys.exit("the picture is wrong: a red sphere came out as %s" % ((red, green, blue),))
print("DEVICE", device)
"""


@dataclass(frozen=True)
class Backend:
    """An OpenGL that was seen to render a correct picture."""

    name: str
    """``egl``, ``osmesa`` or ``glfw``; what ``MUJOCO_GL`` is set to."""
    device: str
    """What OpenGL calls its renderer, e.g. ``llvmpipe (LLVM 15.0.6, 256 bits)``; empty if a parent process tried it."""

    @property
    def software(self) -> bool:
        """Whether the pictures are drawn on the CPU."""
        return self.name == "osmesa" or any(word in self.device.lower() for word in ("llvmpipe", "softpipe", "swrast"))


_backend: Backend | None = None


def find_backend() -> Backend:
    """Find an OpenGL that works, set this process and its children up for it, and remember the answer.

    EGL is tried first, then OSMesa, each in a process of its own because a broken driver may crash. A ``MUJOCO_GL``
    that is already set is the only one tried. Sets ``MUJOCO_GL``, ``PYOPENGL_PLATFORM`` and ``LP_NUM_THREADS=0`` (the
    software rasteriser's threads of several processes get in each other's way), and under ``torchrun`` the EGL device
    of the process's rank; call it before MuJoCo is imported.

    Raises:
        UserError: nothing works; the message names the packages to install.
    """
    global _backend
    if _backend is not None:
        return _backend
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wanted and os.environ.get(_CHECKED) == wanted:
        _backend = _settle(Backend(wanted, ""))
        return _backend
    if wanted and wanted not in KNOWN_BACKENDS:
        raise UserError(
            f"MUJOCO_GL={wanted} does not render off screen; unset it, or set it to one of: {', '.join(KNOWN_BACKENDS)}"
        )
    failures = []
    for name in (wanted,) if wanted else AUTOMATIC_BACKENDS:
        device, reason = _probe(name)
        if device is not None:
            _backend = _settle(Backend(name, device))
            return _backend
        failures.append(f"{name}: {reason}")
    if wanted:
        raise UserError(f"MUJOCO_GL={wanted} is set but does not render ({failures[0]}); unset it, or {APT_FIX}")
    raise UserError(f"no working OpenGL ({', '.join(failures)}); {APT_FIX}")


def _environment(name: str) -> dict[str, str]:
    """Environment variables that make MuJoCo and PyOpenGL use backend ``name``."""
    variables = {"MUJOCO_GL": name}
    if name in ("egl", "osmesa"):
        variables["PYOPENGL_PLATFORM"] = name
    if "LP_NUM_THREADS" not in os.environ:
        variables["LP_NUM_THREADS"] = "0"
    rank, cards = os.environ.get("LOCAL_RANK", ""), graphics_cards()
    if name == "egl" and rank.isdecimal() and cards > 1 and "MUJOCO_EGL_DEVICE_ID" not in os.environ:
        variables["MUJOCO_EGL_DEVICE_ID"] = str(int(rank) % cards)
    return variables


def graphics_cards(devices: Path = Path("/dev")) -> int:
    """Count the GPUs that can draw, by Linux's render nodes or NVIDIA's devices."""
    nodes = len(list(devices.glob("dri/renderD*")))
    return max(nodes, len([path for path in devices.glob("nvidia*") if path.name[6:].isdecimal()]))


def _settle(backend: Backend) -> Backend:
    os.environ.update(_environment(backend.name))
    os.environ[_CHECKED] = backend.name
    before_mujoco()
    return backend


def before_mujoco() -> None:
    """Import Triton before MuJoCo where that matters: with OSMesa, importing MuJoCo already loads Mesa's LLVM."""
    if os.environ.get("MUJOCO_GL", "").strip().lower() == "osmesa":
        load_triton_first()


def _probe(name: str) -> tuple[str | None, str]:
    """Render a red sphere in a subprocess. Returns ``(device, "")``, or ``(None, one-line reason)``."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, **_environment(name)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer in {PROBE_TIMEOUT_S:.0f} s"
    devices = [line.removeprefix("DEVICE ") for line in done.stdout.splitlines() if line.startswith("DEVICE ")]
    if devices:
        return devices[0], ""
    if done.returncode < 0:
        return None, f"crashed with signal {-done.returncode}"
    last = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return None, last[-1][:160].replace("; ", ", ") if last else f"exit status {done.returncode}"


def load_triton_first() -> None:
    """Import Triton before Mesa's LLVM is loaded, unless this process promised to stay without torch.

    The other way round the process dies (signal 11), and torch imports Triton late and unasked: at the first optimiser
    or ``torch.compile``. With EGL the LLVM comes with the first context, with OSMesa with ``import mujoco``.
    """
    if "triton" in sys.modules or ("torch" not in sys.modules and _no_torch):
        return
    if find_spec("triton") is not None:
        import_module("triton")


_no_torch = False


def promise_no_torch() -> None:
    """Declare that this process will not import torch (a simulation worker): saves half a second and 100 MB."""
    global _no_torch
    _no_torch = True


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from: a camera of the MuJoCo model, or a free one of our own."""

    name: str
    """Name under which the picture appears in observations and in demonstration files."""
    model_camera: str | None = None
    """Name of the camera in the model; None for a free camera."""
    rotated: bool = False
    """The model's camera hangs upside down: turn the picture by 180 degrees (rows alone would mirror it)."""
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Free camera: the point in the middle of the picture, metres."""
    distance: float = 1.0
    """Free camera: metres from ``lookat``."""
    azimuth: float = 90.0
    """Free camera: viewing direction around the vertical, degrees."""
    elevation: float = -45.0
    """Free camera: viewing direction above the horizontal, degrees; negative looks down."""
    fovy: float = 45.0
    """Free camera: vertical field of view, degrees."""
    about: str = ""
    """What it shows, one line for people."""


class OffscreenRenderer:
    """Draws one environment's scene in an OpenGL context of its own.

    Gymnasium's ``render()`` does not make its context current, so that several environments in one process get each
    other's pictures; here every call does, and a context is freed with itself current.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        quality: str = "lean",
        size: int = BUFFER_SIZE,
        hidden_groups: tuple[int, ...] = (),
    ) -> None:
        """Make a context for pictures of up to ``max(size, 480)`` pixels a side, without geoms of ``hidden_groups``.

        ``lean`` leaves out multisampling, shadows and reflections, which is about ten times as fast in software;
        ``full`` is the model's own setting.

        Raises:
            UserError: unknown quality, or no working OpenGL.
        """
        if quality not in QUALITIES:
            raise unknown_name("quality", quality, QUALITIES)
        backend = find_backend()
        load_triton_first()
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self.quality = quality
        self.limit = max(size, BUFFER_SIZE)
        model.vis.global_.offwidth = model.vis.global_.offheight = self.limit
        if quality == "lean":
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = 0  # 64 MB of shadow map that would never be read
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        self._option = mujoco.MjvOption()
        for group in hidden_groups:
            self._option.geomgroup[group] = 0
        if quality == "lean":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        # By name, not from mujoco.gl_context: that has chosen already if MuJoCo was imported before find_backend().
        self._gl: Any = import_module(f"mujoco.{backend.name}").GLContext(self.limit, self.limit)
        self._gl.make_current()
        _close_at_exit(self)
        self._context: Any = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def render(self, camera: Camera, size: int) -> np.ndarray:
        """Take a picture of the scene as it is now.

        Returns:
            Upright RGB, uint8 ``(size, size, 3)``.

        Raises:
            UserError: ``size`` is larger than the framebuffer.
            RuntimeError: the renderer was closed, or its OpenGL context is lost.
        """
        if self._context is None:
            raise RuntimeError("this renderer is closed; make a new environment")
        if not 1 <= size <= self.limit:
            raise UserError(f"a picture of {size} pixels was asked for; choose 1 to {self.limit}")
        mujoco = self._mujoco
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._view_of(camera), mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        pixels = np.zeros((size, size, 3), np.uint8)  # what a lost context does not write is black, no older picture
        view = mujoco.MjrRect(0, 0, size, size)
        self._gl.make_current()
        mujoco.mjr_render(view, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, view, self._context)
        error = GL_ERRORS.get(mujoco.mjr_getError())
        if error is not None:
            raise RuntimeError(f"OpenGL cannot draw any more ({error}); its context is lost")
        # OpenGL's first row is the bottom one; a camera that hangs upside down needs its columns turned instead.
        return np.ascontiguousarray(pixels[:, ::-1] if camera.rotated else pixels[::-1])

    def _view_of(self, camera: Camera) -> mujoco.MjvCamera:
        mujoco = self._mujoco
        view = mujoco.MjvCamera()
        if camera.model_camera is not None:
            view.type = mujoco.mjtCamera.mjCAMERA_FIXED
            view.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera.model_camera)
            if view.fixedcamid < 0:
                raise UserError(f"the scene has no camera {camera.model_camera!r}; choose another camera")
            return view
        view.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._model.vis.global_.fovy = camera.fovy
        view.lookat[:] = camera.lookat
        view.distance, view.azimuth, view.elevation = camera.distance, camera.azimuth, camera.elevation
        return view

    def close(self) -> None:
        """Free the context and its memory (about 200 MB for a Meta-World scene). May be called twice."""
        if self._context is None:
            return
        self._gl.make_current()  # otherwise the buffers of whichever context is current would be deleted
        self._context.free()
        self._gl.free()
        self._context = self._gl = None

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self.close()


_open_renderers: weakref.WeakSet[OffscreenRenderer] = weakref.WeakSet()


def _close_open_renderers() -> None:
    for renderer in list(_open_renderers):
        renderer.close()


def _close_at_exit(renderer: OffscreenRenderer) -> None:
    """Close renderers that are still open at exit before MuJoCo shuts EGL down, which would print errors otherwise.

    Exit functions run last in, first out, so ours is registered after the first context was made.
    """
    if not _open_renderers:
        atexit.unregister(_close_open_renderers)
        atexit.register(_close_open_renderers)
    _open_renderers.add(renderer)
