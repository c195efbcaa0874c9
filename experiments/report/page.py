"""The page: ``report.html``, one self-contained file that opens from disk with nothing fetched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rsp_robot.experiments.report.curves import cloning_curves, pretraining_curves
from rsp_robot.experiments.report.figures import difference_plot, episode_grid, success_plot
from rsp_robot.experiments.report.markup import arm_class, arm_styles, note, tag, text
from rsp_robot.experiments.report.media import imagined_futures, rollout_videos
from rsp_robot.experiments.results import Results, load_results
from rsp_robot.experiments.wording import headline, p_number, percent, percent_interval, points, points_interval
from rsp_robot.files import read_json, write_text

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

READING = (
    "An episode counts as a success if the task was solved at any step of it.",
    "Every policy ran from the same start states, which was checked, so the policies are compared "
    "pair by pair: McNemar’s exact test asks whether the start states that only one of them solves favour "
    "either side, and Holm’s correction allows for the number of comparisons. That test decides what is called "
    "established; the bootstrap interval, which is not corrected, says how large the difference may be.",
    "Each policy was trained once. The intervals speak of these policies on other start states; they do not "
    "cover what another training seed would have changed.",
)


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into ``run_folder`` from what lies there.

    ``results.json`` is needed. Metrics, pictures, videos and configurations are shown where they are found; a note
    stands where one is missing. The same folder always gives the same page.

    Args:
        run_folder: a quickstart folder.

    Returns:
        The path of the page.

    Raises:
        UserError: ``results.json`` is missing or does not hold evaluation results.
    """
    folder = Path(run_folder)
    path = folder / "report.html"
    write_text(path, render_page(folder, load_results(folder)))
    return path


def render_page(folder: Path, results: Results) -> str:
    """The whole page as HTML."""
    resources = files("rsp_robot.experiments.report")
    sections = [
        _section("result", "Success", success_plot(results) + _success_table(results)),
        _section("comparison", "Paired comparison", _comparison(results)),
        _section("rollouts", "Rollouts", rollout_videos(folder, results)),
        _section("imagined", "Imagined futures", imagined_futures(folder / "pretrain")),
        _section("learning", "Learning", _learning(folder, results)),
        _section("setup", "How it was made", _setup(folder, results)),
    ]
    return PAGE.format(
        policy=POLICY,
        title=text(f"{results.title}: {results.task}"),
        style=(resources / "report.css").read_text(encoding="utf-8") + arm_styles(),
        body="\n".join([_masthead(results), *sections]),
        script=(resources / "report.js").read_text(encoding="utf-8"),
    )


def _section(name: str, heading: str, content: str) -> str:
    title = tag("h2", text(heading), id=f"{name}-heading")
    return tag("section", title, content, id=name, aria_labelledby=f"{name}-heading")


def _masthead(results: Results) -> str:
    head = headline(results.summary)
    return tag(
        "header",
        tag("p", text(results.title), tag("span", text(results.task), class_="task"), class_="eyebrow"),
        tag("h1", text(head.verdict)),
        tag("p", text(head.sentence), class_="sentence"),
    )


def _success_table(results: Results) -> str:
    errors = any(arm.errors for arm in results.summary.arms)
    headings = ["Policy", "Success", "Rate", "95 % interval", "Solved at the end", "Median step of first success"]
    rows = []
    for index, arm in enumerate(results.summary.arms):
        first = "–" if arm.median_first_success is None else f"{arm.median_first_success:g}"
        cells = [
            f"{arm.successes} of {arm.episodes}",
            percent(arm.rate),
            percent_interval(arm.interval),
            f"{arm.successes_at_end} of {arm.episodes}",
            first,
        ]
        rows.append((_arm_name(index, arm.label), [*cells, str(arm.errors)] if errors else cells))
    return _table([*headings, "Errors (left out)"] if errors else headings, rows)


def _comparison(results: Results) -> str:
    summary = results.summary
    reading = tag("ul", *(tag("li", text(sentence)) for sentence in READING), class_="reading")
    if not summary.comparisons:
        return note("There is one policy only: nothing to compare.") + episode_grid(results) + reading
    headings = ["First vs second", "Both", "Only first", "Only second", "Neither", "Difference", "95 % interval"]
    headings += ["p (McNemar)", "p (Holm)", "Difference established"]
    rows = []
    for comparison in summary.comparisons:
        pairs = comparison.pairs
        cells = [str(count) for count in (pairs.both, pairs.only_a, pairs.only_b, pairs.neither)]
        cells += [points(pairs.difference), points_interval(pairs.interval)]
        cells += [p_number(pairs.p_value), p_number(comparison.p_holm), "yes" if comparison.established else "no"]
        rows.append((text(summary.title(comparison)), cells))
    return difference_plot(summary) + _table(headings, rows) + episode_grid(results) + reading


def _arm_name(index: int, label: str) -> str:
    return tag("span", tag("span", class_="dot"), text(label), class_=f"arm-name {arm_class(index)}")


def _table(headings: list[str], rows: list[tuple[str, list[str]]]) -> str:
    head = tag("thead", tag("tr", *(tag("th", text(heading), scope="col") for heading in headings)))
    body = [tag("tr", tag("th", name, scope="row"), *(tag("td", text(cell)) for cell in cells)) for name, cells in rows]
    return tag("div", tag("table", head, tag("tbody", *body)), class_="table", tabindex=0, role="region")


def _learning(folder: Path, results: Results) -> str:
    caution = (
        "Over the gradient steps, with the last value above each curve. A falling loss alone proves little: with a KL "
        "at its floor the latent goes unused, and where the rank collapses the features have lost information."
    )
    cloning = "Mean squared error of the actions predicted from the frozen features and proprioception."
    return "".join(
        [
            tag("h3", "Pretraining"),
            tag("p", text(caution), class_="aside"),
            pretraining_curves(folder / "pretrain"),
            tag("h3", "Behaviour cloning"),
            tag("p", text(cloning), class_="aside"),
            cloning_curves(folder, results.arms),
        ]
    )


def _setup(folder: Path, results: Results) -> str:
    parts = []
    if results.command:
        parts += [tag("h3", "Command"), tag("pre", tag("code", text(results.command)), class_="command")]
    versions = results.versions or _versions(folder)
    columns = [
        tag("div", tag("h3", heading), _definitions(values) if values else note(f"No {heading.lower()} were recorded."))
        for heading, values in (("Seeds", results.seeds), ("Versions", versions))
    ]
    parts.append(tag("div", *columns, class_="columns"))
    parts.append(tag("h3", "Configuration"))
    configurations = _configurations(folder, results)
    parts += [
        tag("details", tag("summary", text(name)), tag("pre", tag("code", text(content))))
        for name, content in configurations.items()
    ] or [note("No configuration was recorded.")]
    return "".join(parts)


def _definitions(values: Mapping[str, Any]) -> str:
    return tag("dl", *(tag("div", tag("dt", text(key)), tag("dd", text(value))) for key, value in values.items()))


def _versions(folder: Path) -> dict[str, Any]:
    path = folder / "versions.json"
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _configurations(folder: Path, results: Results) -> dict[str, str]:
    """Name and YAML text of the experiment's configuration and of every run inside its folder."""
    found = {}
    if results.config:
        found["The whole experiment"] = yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True)
    for path in sorted(folder.glob("*/config.yaml")):
        found[path.parent.name] = path.read_text(encoding="utf-8", errors="replace")
    return found
