"""The section on how everything was made: commands, seeds, versions, configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rsp_robot.experiments.report.curves import names_of
from rsp_robot.experiments.report.markup import note, tag, text
from rsp_robot.experiments.report.material import Material
from rsp_robot.files import read_json


def made_section(material: Material) -> str:
    """Commands to make it again, seeds, versions, and every configuration that was found."""
    commands = list(dict.fromkeys(record.text("command") for record in material.records if record.text("command")))
    page = shlex.join(["rsp-robot", "report", *material.words])
    parts = [
        tag("h3", "Commands" if commands else "Command"),
        tag("pre", tag("code", text("\n".join([*commands, page]))), class_="command", tabindex=0),
    ]
    seeds = _together({str(record.path): record.mapping("seeds") for record in material.records})
    columns = [
        tag("div", tag("h3", heading), _definitions(values) if values else note(f"No {heading.lower()} were recorded."))
        for heading, values in (("Seeds", seeds), ("Versions", versions_of(material)))
        if values or heading == "Versions"
    ]
    parts += [tag("div", *columns, class_="columns"), tag("h3", "Configuration")]
    found = configurations(material)
    parts += [
        tag("details", tag("summary", text(name)), tag("pre", tag("code", text(content)), tabindex=0))
        for name, content in found.items()
    ] or [note("No configuration was recorded.")]
    return "".join(parts)


def versions_of(material: Material) -> dict[str, str]:
    """Versions by package; where files differ, every one that there is."""
    found = {str(record.path): record.mapping("versions") for record in material.records}
    for folder in _folders(material):
        path = folder / "versions.json"
        content = read_json(path) if path.is_file() else {}
        found[str(path)] = content if isinstance(content, dict) else {}
    if not any(found.values()) and material.table is not None:
        for task, settings in material.table.settings.items():
            known = {key.removeprefix("version of "): value for key, value in settings.items() if "version of" in key}
            found[task] = known
    return _together(found)


def configurations(material: Material) -> dict[str, str]:
    """Name and YAML text of the configuration of every experiment and every run."""
    found: dict[str, str] = {}
    for record in material.records:
        if record.mapping("config"):
            name = "The whole experiment" if len(material.records) == 1 else str(record.path)
            found[name] = _yaml(record.mapping("config"))
    if material.table is not None:
        agreed = {task: settings for task, settings in material.table.settings.items() if settings}
        found |= {"What the rows have in common": _yaml(agreed)} if agreed else {}
    folders = _folders(material)
    for name, folder in zip(names_of(folders), folders, strict=True):
        path = folder / "config.yaml"
        if path.is_file():
            found[name] = path.read_text(encoding="utf-8", errors="replace")
    return found


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def _folders(material: Material) -> list[Path]:
    return [*material.pretraining, *(run.folder for run in material.training)]


def _together(mappings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """One mapping: where several values go by one key, all of them."""
    values: dict[str, list[str]] = {}
    for mapping in mappings.values():
        for key, value in mapping.items():
            seen = values.setdefault(str(key), [])
            if str(value) not in seen:
                seen.append(str(value))
    return {key: " or ".join(seen) for key, seen in values.items()}


def _definitions(values: Mapping[str, Any]) -> str:
    return tag("dl", *(tag("div", tag("dt", text(key)), tag("dd", text(value))) for key, value in values.items()))
