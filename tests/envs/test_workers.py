from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from rsp_robot.envs.workers import run_tasks
from rsp_robot.errors import UserError

HELPERS = """
import os, sys, time
from rsp_robot.errors import UserError

def power(base):
    return lambda exponent: (base ** exponent, os.getpid())

def modules(_):
    return lambda _: sorted({"torch", "mujoco", "gymnasium_robotics"} & set(sys.modules))

def dies(folder):
    def work(task):
        mark = folder / str(task)
        count = int(mark.read_text()) + 1 if mark.exists() else 1
        mark.write_text(str(count))
        if task == "once" and count == 1 or task == "always":
            os._exit(7)
        return count
    return work

def fails(_):
    def work(task):
        if task == "user":
            raise UserError("cause; fix")
        raise ValueError("a bug")
    return work

def pid(_):
    return lambda _: os.getpid()
"""


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (tmp_path / "worker_helpers.py").write_text(HELPERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("worker_helpers")
    del sys.modules["worker_helpers"]


def test_every_task_is_done_once_by_the_processes(helpers) -> None:  # type: ignore[no-untyped-def]
    results = dict(run_tasks(helpers.power, 2, iter(range(1, 9)), workers=2))
    assert {task: value for task, (value, _) in results.items()} == {n: 2**n for n in range(1, 9)}
    pids = {pid for _, pid in results.values()}
    assert 1 <= len(pids) <= 2 and os.getpid() not in pids


def test_tasks_are_drawn_late_and_none_is_fine(helpers) -> None:  # type: ignore[no-untyped-def]
    assert list(run_tasks(helpers.power, 2, iter(()), workers=2)) == []
    done: list[int] = []

    def until_two_are_done():  # type: ignore[no-untyped-def]
        for task in range(1, 100):
            if len(done) >= 2:
                return
            yield task

    for task, _ in run_tasks(helpers.power, 2, until_two_are_done(), workers=1):
        done.append(task)
    assert done == [1, 2]


def test_a_dead_worker_is_replaced_and_its_task_done_again(helpers, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    results = dict(run_tasks(helpers.dies, tmp_path, iter(["a", "once", "b"]), workers=1))
    assert results == {"a": 1, "once": 2, "b": 1}
    with pytest.raises(UserError, match=r"died 3 times at one task \(exit status 7\)"):
        list(run_tasks(helpers.dies, tmp_path, iter(["always"]), workers=1))
    assert (tmp_path / "always").read_text() == "3"


def test_errors_come_through(helpers) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"^cause; fix$"):
        list(run_tasks(helpers.fails, None, iter(["user"]), workers=1))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ValueError: a bug"):
        list(run_tasks(helpers.fails, None, iter(["bug"]), workers=1))


def test_a_script_without_a_main_guard_is_not_run_again_and_its_torch_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "worker_helpers.py").write_text(HELPERS)
    (tmp_path / "torch.py").write_text("")  # stands for the real one, which takes long to load
    (tmp_path / "script.py").write_text(
        "print('started')\nimport torch\n"
        "from worker_helpers import modules\nfrom rsp_robot.envs.workers import run_tasks\n"
        "print(list(run_tasks(modules, None, iter([1]), 1)))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "started\n[(1, [])]\n", done.stderr


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "worker_helpers.py").write_text(HELPERS)
    (tmp_path / "script.py").write_text(
        "import time\nfrom worker_helpers import pid\nfrom rsp_robot.envs.workers import run_tasks\n"
        "for _, pid in run_tasks(pid, None, iter([1, 2]), 1):\n    print(pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _running(worker):
        time.sleep(0.05)
    assert not _running(worker)


def _running(pid: int) -> bool:
    """Whether the process lives; one that ended but was not waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
