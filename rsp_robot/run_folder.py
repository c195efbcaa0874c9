"""The folder of one run: configuration, versions, metrics, checkpoints, pictures; resumable, never overwritten."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rsp_robot.errors import UserError
from rsp_robot.files import append_jsonl, atomic_path, read_jsonl, write_json, write_text
from rsp_robot.versions import versions


def plain(value: Any) -> Any:
    """Turn a (nested) dataclass into what YAML and JSON hold: dicts, lists, strings and numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return json.loads(json.dumps(value, default=str))


class RunFolder:
    """One run on disk. Open it with :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._board: Any = None
        self._wandb: Any = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], config: Any, resume: bool = False) -> RunFolder:
        """Create the folder of a run, or go on with one.

        Args:
            path: the folder; made if it is missing.
            config: a dataclass or dict; written to ``config.yaml``.
            resume: go on with what is there. The configuration must be the one it was started with.

        Raises:
            UserError: the folder is not empty and ``resume`` is off, or it holds a run with another configuration.
        """
        folder = Path(path)
        wanted = plain(config)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; give a folder")
        stored = folder / "config.yaml"
        if stored.exists() and resume:
            try:
                found = yaml.safe_load(stored.read_text(encoding="utf-8"))
            except yaml.YAMLError:
                found = None
            if not isinstance(found, dict):
                raise UserError(f"{stored} cannot be read; give a new folder")
            if found != wanted:
                keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
                raise UserError(
                    f"{folder} holds a run with other settings ({', '.join(keys)}); give a new folder or those settings"
                )
            if not (folder / "versions.json").exists():  # killed between the two files
                write_json(folder / "versions.json", versions())
            return cls(folder)
        if folder.exists() and any(not child.name.endswith(".tmp") for child in folder.iterdir()):
            if resume:
                raise UserError(f"{folder} is not empty and holds no run (no config.yaml); give a new folder")
            raise UserError(f"{folder} is not empty; continue it with --resume or give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        # The configuration comes first: it is what makes the folder a run that can be resumed.
        write_text(stored, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
        write_json(folder / "versions.json", versions())
        return cls(folder)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go; made on first use."""
        return self._made("checkpoints")

    @property
    def media(self) -> Path:
        """Where pictures and videos go; made on first use."""
        return self._made("media")

    def log(self, step: int, **metrics: float | Sequence[float]) -> None:
        """Append ``{"step": step, **metrics}`` to ``metrics.jsonl`` and to TensorBoard; lists become histograms."""
        append_jsonl(self.path / "metrics.jsonl", {"step": step, **metrics})
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        for name, value in metrics.items():
            if isinstance(value, Sequence):
                finite = np.asarray(value)[np.isfinite(value)]
                if finite.size:
                    self._board.add_histogram(name, finite, step)
            else:
                self._board.add_scalar(name, value, step)

    def add_wandb(self, project: str, config: Any) -> None:
        """Send everything that goes to TensorBoard to Weights & Biases as well.

        Raises:
            UserError: the package ``wandb`` is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise UserError("the package wandb is not installed; pip install wandb, or leave out --wandb") from None
        board = str(self.path / "tensorboard")
        wandb.tensorboard.patch(root_logdir=board)
        self._wandb = wandb.init(
            project=project, name=self.path.name, id=f"{self.path.name}-{_digest(self.path)}", resume="allow",
            dir=str(self.path), config=plain(config),
        )  # fmt: skip

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows logged so far."""
        return read_jsonl(self.path / "metrics.jsonl")

    def forget_after(self, step: int) -> None:
        """Drop metrics logged after ``step``: a killed run goes on from its checkpoint, which may lie before them."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        with atomic_path(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def close(self) -> None:
        """Flush TensorBoard and Weights & Biases."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def _made(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder


def _digest(path: Path) -> str:
    """Eight hex digits of where a folder is: the same run after a resume, another run elsewhere."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
