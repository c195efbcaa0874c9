"""``rsp-robot doctor``: what this machine has, what is missing and how to mend it, and how fast it renders."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rsp_robot.cores import available_cores
from rsp_robot.errors import UserError

Mark = Literal["ok", "warn", "fail"]
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
PYTHONS = ((3, 11), (3, 12))
SHOWN_VERSIONS = ("torch", "mujoco", "metaworld", "numpy")
SUITE_EXTRAS = ("metaworld", "gymnasium-robotics", "dmc")

SCENE = "metaworld/push-v3"
IMAGE_SIZE = 64
SLOW_FRAMES_S, IMPLAUSIBLE_FRAMES_S = 15.0, 4000.0
RENDER_TIMEOUT_S = 180.0
DISK_WARN_GB, DISK_FAIL_GB = 5.0, 0.5
MEMORY_WARN_GB = 3.0

_MEASURE = """
import json, sys, time
import numpy as np
from rsp_robot.envs import make
task, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
env = make(task, image_size=size, quality="lean")
observation, _ = env.reset(seed=0)
camera = env.cameras[0]
contrast = float(observation[camera].std())
rest = np.zeros(env.action_space.shape, np.float32)
env.step(rest)
frames, start = 0, time.perf_counter()
while time.perf_counter() - start < seconds:
    *_, truncated, _ = env.step(rest)
    frames += 1
    if truncated:
        env.reset(seed=frames)
elapsed = time.perf_counter() - start
env.close()
print("MEASURED", json.dumps({"frames_s": frames / elapsed, "contrast": contrast, "camera": camera}))
"""


@dataclass(frozen=True)
class DoctorConfig:
    """What to look at."""

    folder: Path = Path(".")
    """Where runs will be written; its disk is looked at."""
    seconds: float = 2.0
    """How long to render for the measurement of its speed; 0 leaves it out."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    mark: Mark
    """``ok``: as it should be; ``warn``: usable, but; ``fail``: something will not work."""
    found: str
    fix: str = ""
    """What to do about it, one line; empty where nothing is to be done."""


def doctor(config: DoctorConfig) -> int:
    """Look at everything, print a table, return the exit status: 0 if this machine can run the quickstart, else 1."""
    console = Console()
    checks: list[Check] = []
    for looking, check in _plan(config):
        with console.status(f"looking at {looking}"):
            checks.extend(check())
    print_checks(checks, console)
    return int(any(check.mark == "fail" for check in checks))


def print_checks(checks: Iterable[Check], console: Console) -> None:
    """Print one row per check, the fixes below it, and a closing line."""
    checks = list(checks)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        fix = f"\n[italic]fix: {escape(check.fix)}[/italic]" if check.fix else ""
        table.add_row(f"[{COLOURS[check.mark]}]{check.mark}[/]", escape(check.name), escape(check.found) + fix)
    console.print(table)
    failed = [check.name for check in checks if check.mark == "fail"]
    console.print(
        f"\nNot usable yet: {', '.join(failed)}. Each line above says what to do."
        if failed
        else "\nUsable: start with `rsp-robot quickstart`.",
        highlight=False,
    )


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Is this a Python that every suite runs on?"""
    found = f"{platform.python_version()} at {sys.executable}"
    if running in PYTHONS:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.11 or 3.12: make clean-all, then make PYTHON=python3.11 setup")


def check_packages(
    requirements: Iterable[str] | None = None, installed: Callable[[str], str] = version
) -> Iterator[Check]:
    """Compare every installed package with the bounds that rsp-robot declares for it.

    Args:
        requirements: requirement strings; those of the installed rsp-robot by default.
        installed: returns a package's version or raises ``PackageNotFoundError``.
    """
    if requirements is None:
        try:
            requirements = requires("rsp-robot") or []
        except PackageNotFoundError:
            yield Check("packages", "fail", "rsp-robot itself is not installed", "make setup")
            return
    within: list[str] = []
    for requirement in map(Requirement, requirements):
        extra = _extra_of(requirement)
        if requirement.name == "rsp-robot" or (extra is not None and extra not in SUITE_EXTRAS):
            continue  # tools of the developer, and groups of extras
        bounds = str(requirement.specifier)
        try:
            number = installed(requirement.name)
        except PackageNotFoundError:
            fix = f"pip install 'rsp-robot[{extra}]'" if extra else f"pip install '{requirement.name}{bounds}'"
            yield Check(requirement.name, "warn" if extra else "fail", "not installed", fix)
            continue
        if requirement.specifier.contains(number, prereleases=True):
            within.append(requirement.name)
        else:
            found = f"{number}, outside {bounds}"
            yield Check(requirement.name, "fail", found, f"pip install '{requirement.name}{bounds}'")
    shown = ", ".join(f"{name} {installed(name)}" for name in SHOWN_VERSIONS if name in within)
    found = f"{len(within)} within their bounds" + (f" ({shown})" if shown else "")
    yield Check("packages", "ok" if within else "fail", found)


def check_torch() -> Check:
    """Does torch load, on what does it compute, with how many threads, and is bfloat16 fast there?"""
    try:
        import torch
        import torchvision  # noqa: F401 - breaks at import when it was built for another torch
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        return Check("torch", "fail", f"does not load: {reason}", "pip install --force-reinstall torch torchvision")
    from rsp_robot.devices import pick_device

    device = pick_device("auto")
    if device.type == "cuda":
        name, bf16 = f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})", torch.cuda.is_bf16_supported()
    else:
        name, bf16 = "CPU, no GPU found", cpu_has_bf16()
    speed = "fast" if bf16 else "slow"
    return Check("torch", "ok", f"{torch.__version__} on {name}, {torch.get_num_threads()} threads, bfloat16 {speed}")


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware (x86 ``avx512_bf16`` or ``amx_bf16``, Arm ``bf16``)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def check_opengl() -> Check:
    """Find an OpenGL that renders correctly without a display."""
    from rsp_robot.envs.rendering import find_backend

    try:
        backend = find_backend()
    except UserError as error:
        cause, _, fix = str(error).rpartition("; ")
        return Check("OpenGL", "fail", cause, fix)
    software = " (software: no GPU draws the pictures)" if backend.software else ""
    return Check("OpenGL", "ok", f"{backend.name.upper()} {backend.device}{software}".strip())


def check_pictures(seconds: float) -> Iterator[Check]:
    """Look at OpenGL and, where it works and ``seconds`` is not 0, measure how fast it renders."""
    opengl = check_opengl()
    yield opengl
    if opengl.mark == "ok" and seconds > 0:
        yield check_rendering(seconds)


def check_rendering(seconds: float, task: str = SCENE) -> Check:
    """Measure simulated and rendered frames per second of one process, in a process of its own."""
    command = [sys.executable, "-c", _MEASURE, task, str(IMAGE_SIZE), str(seconds)]
    limit = RENDER_TIMEOUT_S + seconds
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit)
    except subprocess.TimeoutExpired:
        return Check("rendering", "fail", f"no picture of {task} in {limit:.0f} s", "end what else keeps the CPU busy")
    measured = [line.removeprefix("MEASURED ") for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not measured:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = f"signal {-done.returncode}" if done.returncode < 0 else (said[-1] if said else "no output")
        told = reason.removeprefix("rsp_robot.errors.UserError: ")
        cause, _, fix = told.rpartition("; ") if told != reason else (reason, "", "")
        return Check("rendering", "fail", f"{task}: {cause}", fix or "try MUJOCO_GL=osmesa, and report this line")
    return judge_rendering(task, **json.loads(measured[-1]))


def judge_rendering(task: str, frames_s: float, contrast: float, camera: str) -> Check:
    """Say what a measured rate (frames/s) and the contrast of a picture (standard deviation, of 255) mean."""
    found = f"{frames_s:.0f} frames/s per process ({task}, {camera}, {IMAGE_SIZE} px, lean)"
    if contrast < 1.0 or frames_s > IMPLAUSIBLE_FRAMES_S:
        wrong = "the pictures are blank" if contrast < 1.0 else "too fast to be true"
        return Check("rendering", "fail", f"{found}: {wrong}", "update the graphics driver, or set MUJOCO_GL=osmesa")
    if frames_s < SLOW_FRAMES_S:
        return Check("rendering", "warn", f"{found}: slow", "end what else keeps the CPU busy, or be patient")
    return Check("rendering", "ok", found)


def check_machine(memory_gb: float | None = None) -> Check:
    """Is there memory for a few simulators beside torch?"""
    available = _available_memory_gb() if memory_gb is None else memory_gb
    cores = available_cores()
    found = f"{cores} CPU cores, {available:.1f} GB of memory free"
    if available < MEMORY_WARN_GB:
        return Check("machine", "warn", found, "close other programs, or use fewer workers (each takes about 0.5 GB)")
    return Check("machine", "ok", found)


def check_disk(folder: Path, free_gb: float | None = None) -> Check:
    """Is there room for demonstrations and runs under ``folder``?"""
    home = folder.resolve()
    while not home.exists():
        home = home.parent
    free = shutil.disk_usage(home).free / 1e9 if free_gb is None else free_gb
    found = f"{free:.1f} GB free at {home}"
    if not os.access(home, os.W_OK):
        return Check("disk", "fail", f"{home} is not writable", "run from a folder of your own")
    if free < DISK_WARN_GB:
        mark: Mark = "fail" if free < DISK_FAIL_GB else "warn"
        return Check("disk", mark, found, "free some; the quickstart writes about 0.5 GB")
    return Check("disk", "ok", found)


def _plan(config: DoctorConfig) -> Iterator[tuple[str, Callable[[], Iterable[Check]]]]:
    # torch comes before OpenGL, and pictures are only drawn in other processes: see `load_triton_first`.
    yield "Python", lambda: [check_python()]
    yield "packages", check_packages
    yield "torch", lambda: [check_torch()]
    yield "OpenGL", lambda: check_pictures(config.seconds)
    yield "memory", lambda: [check_machine()]
    yield "the disk", lambda: [check_disk(config.folder)]


def _extra_of(requirement: Requirement) -> str | None:
    """The extra that asks for ``requirement``; None for one that is always needed."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    return str(requirement.marker).partition("extra == ")[2].strip("\"' ")


def _available_memory_gb(meminfo: Path = Path("/proc/meminfo")) -> float:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e9
    except (OSError, StopIteration, ValueError):
        return float("inf")
