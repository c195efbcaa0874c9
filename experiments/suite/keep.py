"""A suite for the record: what its numbers are computed from, small enough for a repository."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.plan import plan_path
from rsp_robot.files import atomic_path, read_json, write_json


def keep_suite(folder: Path, out: Path) -> Path:
    """Copy ``suite.json``, and the rows of each training seed, compressed, with their plans.

    Paths of this machine are left out. The same rows give the same bytes.

    Returns:
        ``out``, which ``rsp-robot compare`` takes like the suite itself.

    Raises:
        UserError: ``folder`` holds no finished suite, or ``out`` holds something else.
    """
    if not (folder / "suite.json").is_file():
        raise UserError(f"{folder} holds no finished suite; give the --out of rsp-robot suite run")
    summary = read_json(folder / "suite.json")
    if out.exists() and (out.is_file() or (any(out.iterdir()) and not (out / "suite.json").is_file())):
        raise UserError(f"{out} holds something else; give a new folder")
    for name in summary["rows"]:
        rows, kept = folder / name, out / f"{name}.gz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(kept) as temporary:
            temporary.write_bytes(gzip.compress(rows.read_bytes(), compresslevel=9, mtime=0))
        write_json(plan_path(out / name), without_places(read_json(plan_path(rows))))
    write_json(out / "suite.json", without_places(summary))
    return out


def without_places(value: Any) -> Any:
    """Return plain values with absolute paths shortened to their last part, in commands too.

    >>> without_places({"spec": "/home/me/runs/rsp", "tasks": ["metaworld/push-v3"]})
    {'spec': 'rsp', 'tasks': ['metaworld/push-v3']}
    >>> without_places("rsp-robot suite run honest --encoder rsp=/home/me/rsp --out /home/me/suite")
    'rsp-robot suite run honest --encoder rsp=rsp --out suite'
    """
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and value.startswith("rsp-robot "):
        return re.sub(r"(?<=[\s=,])/(?:[^\s/,]+/)*(?=[^\s/,])", "", value)
    if isinstance(value, str) and value.startswith("/") and "\n" not in value and " " not in value:
        return Path(value).name
    return value
