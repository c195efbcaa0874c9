"""Simulation worker processes: spawned, free of torch, replaced when they die."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from rsp_robot.errors import UserError

Setup = TypeVar("Setup")
Task = TypeVar("Task")
Result = TypeVar("Result")
TRIES = 3
"""How often a task is started before the death of its workers is an error."""


@contextmanager
def hidden_main_module() -> Iterator[None]:
    """Keep spawned children from importing this process's main module again.

    It may import torch, and a script without ``if __name__ == "__main__"`` would start itself over.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@dataclass
class _Worker(Generic[Task]):
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    tries: int = 0


def run_tasks(
    start: Callable[[Setup], Callable[[Task], Result]], setup: Setup, tasks: Iterator[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    """Run ``start(setup)(task)`` for every task in spawned processes; yield ``(task, result)`` as they finish.

    ``start`` is called once per process; it and everything sent must be picklable, and ``start`` importable by name.
    Tasks are drawn from the iterator one at a time when a worker is free, so it may depend on the results so far. A
    task is never None. Leaving early ends the processes.

    Raises:
        UserError: raised in a worker, passed on; or a task's workers died :data:`TRIES` times.
        RuntimeError: another exception in a worker, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    crew: list[_Worker[Task]] = []
    again: list[tuple[Task, int]] = []  # tasks whose worker died, and how often they were started

    def hire() -> _Worker[Task]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, start, setup), daemon=True)
        with hidden_main_module():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def give(worker: _Worker[Task]) -> None:
        """Hand the next task over; without one the worker stays idle."""
        task, tries = again.pop() if again else (next(tasks, None), 0)
        worker.task, worker.tries = task, tries + 1
        if task is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # if it died, its closed pipe says so below
                worker.pipe.send(task)

    try:
        while True:
            busy = [worker for worker in crew if worker.task is not None]
            while len(busy) < workers:
                idle = next((worker for worker in crew if worker.task is None), None) or hire()
                if idle not in crew:
                    crew.append(idle)
                give(idle)
                if idle.task is None:
                    break
                busy.append(idle)
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                task = worker.task
                assert task is not None
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    crew.remove(worker)
                    worker.process.join()
                    worker.pipe.close()
                    if worker.tries >= TRIES:
                        raise UserError(_obituary(worker.process.exitcode, worker.tries)) from None
                    again.append((task, worker.tries))
                    continue
                if kind == "user error":
                    raise UserError(content)
                if kind == "error":
                    raise RuntimeError(f"a simulation worker failed:\n{content}")
                worker.task = None
                yield task, content
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.process.join()
            worker.pipe.close()


def _obituary(exitcode: int | None, tries: int) -> str:
    how = f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit status {exitcode}"
    return f"a simulation worker died {tries} times at one task ({how}); run again, on fewer workers if memory is short"


def _work(pipe: Connection, start: Callable[[Any], Callable[[Any], Any]], setup: Any) -> None:
    """Body of a worker process: answer tasks until the pipe closes, which it does also when the parent is killed."""
    from rsp_robot.envs.rendering import promise_no_torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    promise_no_torch()
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if function is None:
                function = start(setup)
            answer = ("result", function(task))
        except UserError as error:
            answer = ("user error", str(error))
        except Exception:  # noqa: BLE001 - whatever it is, the parent reports it with this traceback
            answer = ("error", traceback.format_exc())
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
