"""The page: one self-contained HTML file that opens from disk with nothing fetched."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from rsp_robot.errors import UserError
from rsp_robot.experiments.report.comparison import comparison_section, profile_section, success_section
from rsp_robot.experiments.report.curves import names_of, pretraining_curves
from rsp_robot.experiments.report.learning import learning_sections
from rsp_robot.experiments.report.made import made_section
from rsp_robot.experiments.report.markup import arm_styles, tag, text
from rsp_robot.experiments.report.material import Material, gather
from rsp_robot.experiments.report.media import film_grid, imagined_futures
from rsp_robot.experiments.report.pretraining_steps import pretrained_arms, pretraining_plot
from rsp_robot.experiments.report.verdict import verdict
from rsp_robot.files import write_text

# Nothing may be fetched: the browser itself holds the page to it.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
<script>
{script}
</script>
</body>
</html>
"""

MONITORS = (
    "Over the gradient steps, with the last value above each curve. A falling loss alone proves little: with a KL "
    "at its floor the latent goes unused, and where the rank collapses the features have lost information."
)


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into ``run_folder`` from what lies there.

    Metrics, pictures, films and configurations are shown where they are found. The same folder always gives the same
    page.

    Args:
        run_folder: a quickstart folder.

    Returns:
        The path of the page.

    Raises:
        UserError: ``results.json`` is missing or does not hold evaluation results.
    """
    folder = Path(run_folder)
    if not (folder / "results.json").is_file():
        raise UserError(f"{folder / 'results.json'} does not exist; finish the evaluation first")
    return write_page(gather([str(folder)]), folder / "report.html")


def write_page(material: Material, path: Path) -> Path:
    """Write the page of ``material``, atomically."""
    write_text(path, build_page(material))
    return path


def build_page(material: Material) -> str:
    """Return the page as text."""
    resources = files("rsp_robot.experiments.report")
    title, tasks = _title(material)
    return PAGE.format(
        policy=POLICY,
        title=text(f"{title}: {tasks}" if tasks else title),
        style=(resources / "report.css").read_text(encoding="utf-8") + arm_styles(),
        body="\n".join([_masthead(material, title, tasks), *_sections(material)]),
        script=(resources / "report.js").read_text(encoding="utf-8"),
    )


def _sections(material: Material) -> list[str]:
    table = material.table
    contents = [
        ("success", "Success", success_section(material, table) if table else ""),
        ("profiles", "Performance profiles", profile_section(material, table) if table else ""),
        ("comparison", "Paired comparison", comparison_section(material, table) if table else ""),
        ("pretraining-steps", "Success against pretraining", pretraining_plot(material, pretrained_arms(material))),
        ("rollouts", "Rollouts", _rollouts(material)),
        ("imagined", "Imagined futures", _imagined(material)),
        ("learning", "Learning", _learning(material)),
        ("setup", "How it was made", made_section(material)),
    ]
    if table and not all(pair.difference.paired for pair in table.pairs):
        contents[2] = ("comparison", "Comparison, unpaired", contents[2][2])
    return [_section(name, heading, content) for name, heading, content in contents if content]


def _section(name: str, heading: str, content: str) -> str:
    title = tag("h2", text(heading), id=f"{name}-heading")
    return tag("section", title, content, id=name, aria_labelledby=f"{name}-heading")


def _title(material: Material) -> tuple[str, str]:
    """What is asked, and on which tasks."""
    titles = {record.text("title") for record in material.records} - {""}
    tasks = material.table.tasks if material.table else ()
    named = ", ".join(tasks) if len(tasks) <= 4 else f"{len(tasks)} tasks"
    return titles.pop() if len(titles) == 1 else "Evaluation" if tasks else "Training", named


def _masthead(material: Material, title: str, tasks: str) -> str:
    head = verdict(material)
    return tag(
        "header",
        tag("p", text(title), tag("span", text(tasks), class_="task"), class_="eyebrow"),
        tag("h1", text(head.verdict)),
        tag("p", text(head.sentence), class_="sentence"),
    )


def _rollouts(material: Material) -> str:
    """The films; where there is one task, a note in the place of an outcome that an arm does not have."""
    if not material.films:
        return ""
    absences = {}
    if material.table is not None and len(material.table.tasks) == 1:
        for arm in material.table.arms:
            (task,) = arm.tasks
            for outcome, count in (("success", task.successes), ("failure", task.episodes - task.successes)):
                missing = f"No {outcome} in {task.episodes} episodes." if count == 0 else ""
                absences[arm.name, outcome] = missing or f"No film of a {outcome} was recorded."
    return film_grid(material.films, material.arms, absences)


def _imagined(material: Material) -> str:
    found = {
        name: imagined_futures(run)
        for name, run in zip(names_of(material.pretraining), material.pretraining, strict=True)
    }
    shown = {name: content for name, content in found.items() if content}
    return "".join((tag("h3", text(name)) if len(shown) > 1 else "") + content for name, content in shown.items())


def _learning(material: Material) -> str:
    parts = []
    if material.pretraining:
        aside = tag("p", text(MONITORS), class_="aside")
        parts += [tag("h3", "Pretraining"), aside, pretraining_curves(material.pretraining)]
    return "".join([*parts, learning_sections(material)])
