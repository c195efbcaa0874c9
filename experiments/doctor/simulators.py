"""The part of ``rsp-robot doctor`` that looks at the simulators, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rsp_robot.envs.registry import load_suite, suites
from rsp_robot.experiments.doctor.examination import MARK

Mark = Literal["ok", "warn", "fail"]
IMAGE_SIZE = 64
SLOW_FRAMES_S, IMPLAUSIBLE_FRAMES_S = 15.0, 4000.0
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    mark: Mark
    """``ok``: as it should be; ``warn``: usable, but; ``fail``: something will not work."""
    found: str
    fix: str = ""
    """What to do about it, one line; empty where nothing is to be done."""


def check_suites(seconds: float, pictures: Path) -> Iterator[Check]:
    """Examine every suite that is there.

    Args:
        seconds: how long to render in each quality.
        pictures: folder that a picture of each suite is saved in.
    """
    for name in suites():
        suite = load_suite(name)
        if find_spec(suite.package) is None:
            fix = f"pip install 'rsp-robot[{suite.extra}]'"
            yield Check(name, "warn", f"not installed ({suite.package})", fix)
        else:
            yield check_suite(name, seconds, pictures / f"{name}.png")


def check_suite(suite: str, seconds: float, picture: Path) -> Check:
    """Examine one suite in a process of its own: a crash there is a finding, not an end."""
    module = "rsp_robot.experiments.doctor.examination"
    command = [sys.executable, "-m", module, suite, str(seconds), str(IMAGE_SIZE), str(picture)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Check(suite, "fail", f"no picture in {TIMEOUT_S:.0f} s", "end what else keeps the CPU busy")
    examined = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not examined:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = f"signal {-done.returncode}" if done.returncode < 0 else (said[-1] if said else "no output")
        told = reason.removeprefix("rsp_robot.errors.UserError: ")
        cause, _, fix = told.rpartition("; ") if told != reason else (reason, "", "")
        return Check(suite, "fail", cause, fix or "try MUJOCO_GL=osmesa, and report this line")
    return judge(suite, **json.loads(examined[-1]), picture=picture)


def judge(
    suite: str,
    *,
    task: str,
    camera: str,
    contrast: float,
    same_seed_same_episode: bool,
    scenes_stay_apart: bool,
    lean_frames_s: float,
    full_frames_s: float,
    picture: Path,
) -> Check:
    """Say what was found in a suite: rates in frames/s, contrast as a standard deviation of 255."""
    rates = f"{lean_frames_s:.0f} frames/s lean, {full_frames_s:.3g} full"
    found = f"{rates} ({task}, {camera}, {IMAGE_SIZE} px), picture in {picture}"
    driver = "update the graphics driver, or set MUJOCO_GL=osmesa"
    if not same_seed_same_episode:
        fix = "install the versions that rsp-robot asks for: pip install 'rsp-robot[all]'"
        return Check(suite, "fail", f"{found}: the same seed is not the same episode", fix)
    if contrast < 1.0:
        return Check(suite, "fail", f"{found}: the pictures are blank", driver)
    if not scenes_stay_apart:
        return Check(suite, "fail", f"{found}: two scenes get each other's pictures", driver)
    if lean_frames_s > IMPLAUSIBLE_FRAMES_S:
        return Check(suite, "fail", f"{found}: too fast to be true", driver)
    if lean_frames_s < SLOW_FRAMES_S:
        return Check(suite, "warn", f"{found}: slow", "end what else keeps the CPU busy, or be patient")
    return Check(suite, "ok", found)
