from __future__ import annotations

import os
from pathlib import Path

from rsp_robot.machine import available_cores, available_memory


def test_there_is_at_least_one_core_and_not_more_than_the_machine_has() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_a_container_has_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9999 kB\nMemFree: 1 kB\nMemAvailable: 2000 kB\n")
    group = tmp_path / "cgroup"
    assert available_memory(tmp_path / "meminfo", group) == 2_048_000
    group.mkdir()
    (group / "memory.current").write_text("900000\n")
    (group / "memory.stat").write_text("anon 100000\ninactive_file 800000\n")
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path / "meminfo", group) == 2_048_000
    (group / "memory.max").write_text("1000000\n")
    assert available_memory(tmp_path / "meminfo", group) == 900_000
    assert available_memory() > 0
