"""What this process may use of the machine: cores and memory."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Return how many cores this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of host memory that can be taken without swapping, by the machine and by the limit of a container."""
    free = 0
    if proc.exists():
        lines = (line.split() for line in proc.read_text(encoding="utf-8").splitlines())
        free = next((int(words[1]) * 1024 for words in lines if words and words[0] == "MemAvailable:"), 0)
    if not free:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit = (cgroup / "memory.max").read_text(encoding="utf-8").strip()
        if limit != "max":
            statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text("utf-8").splitlines())
            # Files that are merely cached make room by themselves.
            used = int((cgroup / "memory.current").read_text("utf-8")) - int(statistics.get("inactive_file", 0))
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return free
