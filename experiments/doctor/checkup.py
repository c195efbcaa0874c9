"""``rsp-robot doctor``: what this machine has, what is missing and how to mend it, and how fast it renders."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rsp_robot.cache import cache_folder
from rsp_robot.errors import UserError
from rsp_robot.experiments.doctor.simulators import Check, Mark, check_suites
from rsp_robot.machine import available_cores, available_memory

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
PYTHONS = ((3, 11), (3, 12))
SHOWN_VERSIONS = ("torch", "mujoco", "metaworld", "numpy")
SUITE_EXTRAS = ("metaworld", "gymnasium-robotics", "dmc")

DISK_WARN_GB, DISK_FAIL_GB = 5.0, 0.5
MEMORY_WARN_GB = 3.0


@dataclass(frozen=True)
class DoctorConfig:
    """What to look at."""

    folder: Path = Path(".")
    """Where runs will be written; its disk is looked at."""
    seconds: float = 2.0
    """How long to render in each suite and quality to measure the speed; 0 leaves the suites out."""
    pictures: Path | None = None
    """Folder for a picture of each suite; in the user's cache by default."""


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


def check_pictures(seconds: float, pictures: Path) -> Iterator[Check]:
    """Look at OpenGL and, where it works and ``seconds`` is not 0, at every suite."""
    opengl = check_opengl()
    yield opengl
    if opengl.mark == "ok" and seconds > 0:
        yield from check_suites(seconds, pictures)


def check_machine(memory_gb: float | None = None) -> Check:
    """Is there memory for a few simulators beside torch?"""
    available = available_memory() / 1e9 if memory_gb is None else memory_gb
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
    pictures = config.pictures or cache_folder() / "doctor"
    yield "OpenGL and the simulators", lambda: check_pictures(config.seconds, pictures)
    yield "memory", lambda: [check_machine()]
    yield "the disk", lambda: [check_disk(config.folder)]


def _extra_of(requirement: Requirement) -> str | None:
    """The extra that asks for ``requirement``; None for one that is always needed."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    return str(requirement.marker).partition("extra == ")[2].strip("\"' ")
