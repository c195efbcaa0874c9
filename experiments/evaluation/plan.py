"""What must not change between the rows of one file, kept beside it: ``evaluation.plan.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsp_robot.envs import describe
from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.roles import Role
from rsp_robot.files import read_json, write_json
from rsp_robot.versions import versions

FORMAT = 2
"""Of rows and plan. Rows of the first format have no ``success_steps``, and their plan has one task."""
Plan = dict[str, Any]


def plan_path(rows: Path) -> Path:
    """Return where the plan of a rows file is kept: ``evaluation.plan.json`` beside ``evaluation.jsonl``."""
    return rows.with_suffix(".plan.json")


def make_plan(
    roles: Mapping[tuple[str, str], Role], *, protocol: str, seed: int, stop_on_success: bool
) -> dict[str, Any]:
    """Return the plan as plain values: of all rows, of each task, and of each policy in each task."""
    found = versions()
    plan: Plan = {
        "format": FORMAT,
        "protocol": protocol,
        "seed": seed,
        "stop_on_success": stop_on_success,
        "tasks": {},
        "policies": {},
    }
    for (name, task), role in roles.items():
        description, horizon = describe(task), role.scene.horizon
        plan["tasks"][task] = {
            "horizon": description.horizon if horizon is None else horizon,
            "versions": {package: found.get(package, "") for package in description.packages},
        }
        plan["policies"].setdefault(name, {})[task] = role.record
    plain: Plan = json.loads(json.dumps(plan))
    return plain


def agree_on_plan(rows: Path, plan: Plan) -> Plan:
    """Write the plan beside the rows, or check that the rows there follow the same one.

    Policies and tasks may join later.

    Returns:
        the plan of all rows in the file.

    Raises:
        UserError: the rows there come from other settings, another policy of the same name, an older version, or are
            of unknown origin.
    """
    path = plan_path(rows)
    if not (rows.exists() and rows.read_bytes().strip()):
        write_json(path, plan)  # the plan of an evaluation that never gave a row binds nobody
        return plan
    if not path.exists():
        raise UserError(
            f"{rows} holds rows but {path.name} is missing, so their settings are unknown; give another file"
        )
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise UserError(
            f"{rows} was written by another version of rsp-robot, whose rows say less or more; give another file "
            "(`rsp-robot compare` reads both)"
        )
    for key in ("protocol", "seed", "stop_on_success"):
        _refuse_other(rows, "", key, stored.get(key), plan[key])
    for task, settings in plan["tasks"].items():
        for key, value in settings.items():
            _refuse_other(rows, f" of {task}", key, stored["tasks"].get(task, settings).get(key), value)
    for name, played in plan["policies"].items():
        for task, record in played.items():
            before = stored["policies"].get(name, {}).get(task, record)
            if before["fingerprint"] != record["fingerprint"]:
                raise UserError(
                    f"{rows} holds rows of another policy called {name!r} on {task}; give another file or name, or "
                    f"remove it and {path.name}"
                )
            for key, value in record.items():
                _refuse_other(rows, f" of {name!r} on {task}", key, before[key], value)
    policies = {**stored["policies"]}
    for name, played in plan["policies"].items():
        policies[name] = {**policies.get(name, {}), **played}
    joint = {**plan, "tasks": {**stored["tasks"], **plan["tasks"]}, "policies": policies}
    if joint != stored:
        write_json(path, joint)
    return joint


def _refuse_other(rows: Path, whose: str, key: str, there: Any, asked: Any) -> None:
    if there != asked:
        raise UserError(
            f"{rows} holds rows{whose} with {key} {there}, asked for {asked}; give another file or that setting"
        )
