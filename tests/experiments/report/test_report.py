from __future__ import annotations

import base64
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.results import Arm, Results, load_results, save_results
from rsp_robot.experiments.comparison.statistics import wilson_interval
from rsp_robot.experiments.comparison.wording import headline
from rsp_robot.experiments.report import save_summary_picture, write_report
from rsp_robot.experiments.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, column, panel, thin
from rsp_robot.experiments.report.markup import ARM_COLOURS, nice_ticks, short_number
from rsp_robot.experiments.report.media import imagined_futures
from rsp_robot.files import append_jsonl, read_json, write_json, write_text

ARMS = (
    Arm("rsp", "RSP", "pretrained on the demonstration videos, then frozen"),
    Arm("random", "random encoder", "the same architecture, weights drawn at random", "the random encoder"),
    Arm("blind", "blind", "proprioception only", "the blind policy"),
)


def make_rows(rates: dict[str, float], episodes: int = 50, seed: int = 0) -> list[dict]:
    """Rows of a made-up evaluation: hard start states are hard for every policy, as they are in a simulator."""
    difficulty = np.random.default_rng(seed).uniform(size=episodes)
    luck = np.random.default_rng(seed + 1).normal(scale=0.35, size=(len(rates), episodes))
    rows = []
    for arm, (policy, rate) in enumerate(rates.items()):
        solved = difficulty + luck[arm] < np.quantile(difficulty + luck[arm], rate, method="inverted_cdf")
        for episode in range(episodes):
            success = bool(solved[episode]) if 0 < rate < 1 else bool(rate)
            rows.append(
                {
                    "policy": policy, "task": "metaworld/push-v3", "episode": episode, "seed": 100000 + episode,
                    "initial_state": f"{episode:08x}", "success_once": success,
                    "success_at_end": success and episode % 7 > 0,
                    "first_success": 40 + episode if success else None, "return": 1.5, "length": 150, "wall_s": 0.8,
                    "error": None,
                }
            )  # fmt: skip
    return rows


def make_video(path: Path, hue: int, frames: int = 24, size: int = 128) -> None:
    """A short H.264 video of a square that wanders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = np.full((frames, size, size, 3), 205, dtype=np.uint8)
    for t in range(frames):
        x = 10 + t * (size - 40) // frames
        pictures[t, size // 2 - 10 : size // 2 + 10, x : x + 20] = (hue, 90, 255 - hue)
    iio.imwrite(path, pictures, plugin="pyav", codec="libx264", fps=12)


def make_quickstart_folder(folder: Path, steps: int = 60, frames: int = 6, size: int = 32) -> Path:
    """A small quickstart folder with everything a report can show, except the failure of the first arm."""
    rng = np.random.default_rng(0)
    rows = make_rows({"rsp": 0.62, "random": 0.44, "blind": 0.1})
    config = {
        "task": "metaworld/push-v3",
        "demonstrations": 100,
        "pretrain": {"lr": 2e-4, "note": '<b>&amp; "gap"</b>'},
    }
    results = Results(
        title="Does pretraining help?", task="metaworld/push-v3", arms=ARMS, rows=tuple(rows), config=config,
        versions={"python": "3.11.2", "torch": "2.8.0", "mujoco": "3.3.0", "metaworld": "3.1.0"},
        seeds={"demonstrations": 0, "pretraining": 0, "behaviour cloning": 0, "evaluation": "100000 to 100049"},
        command="rsp-robot quickstart --out quickstart",
    )  # fmt: skip
    save_results(folder / "results.json", results)
    for name in ("pretrain", "bc-rsp", "bc-random", "bc-blind"):
        objective = "objective: {name: rsp}\n" if name == "pretrain" else ""
        write_text(folder / name / "config.yaml", f"name: {name}\nlr: 0.0002\n{objective}")
    for step in range(0, steps * 20, 20):
        fade = np.exp(-step / 400)
        append_jsonl(
            folder / "pretrain" / "metrics.jsonl",
            {
                "step": step, "loss": 0.35 + fade + 0.03 * rng.normal(), "loss_future": 0.2 + 0.6 * fade,
                "loss_mae": 0.15 + 0.4 * fade, "kl": 1.0 + 6 * fade * (1 - fade) + 0.1 * rng.uniform(),
                "lr": 2e-4 * min(1, step / 100),
            }
            | ({"rank": 20 + 40 * (1 - fade), "rank_patches": 12 + 20 * (1 - fade)} if step % 100 == 0 else {}),
        )  # fmt: skip
        for arm, floor in (("rsp", 0.02), ("random", 0.05), ("blind", 0.11)):
            loss = floor + 0.4 * np.exp(-step / 250)
            append_jsonl(
                folder / f"bc-{arm}" / "metrics.jsonl", {"step": step, "loss": loss, "valid_loss": loss * 1.15 + 0.01}
            )
    (folder / "pretrain" / "media").mkdir()
    noise = rng.integers(0, 255, size=(size // 2, 3 * size // 2, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((6 * size, 2 * size)).save(folder / "pretrain" / "media" / "imagined.png")
    for hue, arm in enumerate(("rsp", "random", "blind")):
        make_video(folder / "media" / f"{arm}-success.mp4", 80 * hue, frames, size)
        if arm != "rsp":
            make_video(folder / "media" / f"{arm}-failure.mp4", 80 * hue + 40, frames, size)
    write_json(folder / "media" / "rsp-success.json", {"episode": 3, "seed": 100003, "first_success": 43, "speed": 0.5})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_quickstart_folder(tmp_path_factory.mktemp("quickstart"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Reads a page: checks that tags nest, collects attributes, text per tag and the targets of anything loaded."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data.replace("\xa0", " ")))

    def attributes(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def text(self, name: str = "") -> str:
        return " ".join(data for tag, data in self.texts if name in ("", tag))


def readable(page: str) -> str:
    return Outline(page).text()


def test_page_is_well_formed_and_its_labels_resolve(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for attributes in outline.attributes("section")} <= set(ids)


def test_page_fetches_nothing(page: str) -> None:
    for name, attributes in Outline(page).tags:
        for key in ("src", "href", "srcset", "poster", "data", "action"):
            assert (attributes.get(key) or "data:").startswith("data:"), (name, key)
    assert "default-src 'none'" in page
    without_data = re.sub(r"data:[a-z0-9/]+;base64,[A-Za-z0-9+/=]+", "", page)
    for forbidden in ("http:", "https:", "//cdn", "@import", "url(", "fetch(", "XMLHttpRequest"):
        assert forbidden not in without_data


def test_page_opens_with_the_honest_sentence(folder: Path, page: str) -> None:
    head = headline(load_results(folder).summary)
    outline = Outline(page)
    assert outline.text("h1") == head.verdict
    assert head.sentence in outline.text("p")
    assert "is not established" in head.verdict
    assert "succeeds more often than the blind policy" in head.verdict


def test_numbers_come_from_the_rows(folder: Path, page: str, tmp_path: Path) -> None:
    assert "30 of 50" in readable(page)
    write_text(tmp_path / "results.json", (folder / "results.json").read_text())
    document = read_json(tmp_path / "results.json")
    row = next(row for row in document["rows"] if row["policy"] == "rsp" and not row["success_once"])
    row["success_once"] = True
    write_json(tmp_path / "results.json", document)
    changed = readable(write_report(tmp_path).read_text())
    assert "31 of 50" in changed
    assert "30 of 50" not in changed


def test_bars_and_intervals_stand_where_the_numbers_are(page: str) -> None:
    bars = [a["width"] for a in Outline(page).attributes("rect") if a.get("class") == "bar"]
    assert bars == ["60%", "42%", "8%"]
    whisker = next(a for a in Outline(page).attributes("line") if a.get("class") == "whisker")
    interval = wilson_interval(30, 50)
    assert (whisker["x1"], whisker["x2"]) == (f"{100 * interval.low:.3f}%", f"{100 * interval.high:.3f}%")


def test_every_episode_is_drawn_once(page: str) -> None:
    kinds = [a["class"] for a in Outline(page).attributes("svg") if str(a.get("class")).startswith("cell")]
    assert (kinds.count("cell solved"), kinds.count("cell")) == (30 + 21 + 4, 150 - 55)


def test_each_arm_has_one_colour_in_both_schemes(page: str) -> None:
    assert ".arm-0{--arm:" in page
    assert page.count(".arm-2{--arm:") == 2
    assert "@media screen and (prefers-color-scheme: dark)" in page
    lights, darks = zip(*ARM_COLOURS, strict=True)
    assert min(contrast(colour, "#fbfbf9") for colour in lights) >= 3
    assert min(contrast(colour, "#14171b") for colour in darks) >= 3


# Machado, Oliveira and Fernandes (2009): what a reader without one kind of cones sees, in linear RGB.
COLOUR_VISION = {
    "full": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_of_the_arms_stay_apart_without_full_colour_vision(vision: str, scheme: int) -> None:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(colour: str) -> np.ndarray:
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = to_xyz @ np.clip(np.array(COLOUR_VISION[vision]) @ linear, 0, 1) / (0.9505, 1.0, 1.089)
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    seen = [lab(colours[scheme]) for colours in ARM_COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20


def contrast(first: str, second: str) -> float:
    """Contrast of two colours as WCAG defines it, from 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    brighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_videos_are_embedded_whole_and_play_by_themselves(folder: Path, page: str) -> None:
    videos = Outline(page).attributes("video")
    assert len(videos) == 5
    for video in videos:
        assert {"autoplay", "muted", "loop", "playsinline", "controls"} <= video.keys()
        assert "rollout that ended in" in str(video["aria-label"])
    first = base64.b64decode(str(videos[0]["src"]).removeprefix("data:video/mp4;base64,"))
    assert first == (folder / "media" / "rsp-success.mp4").read_bytes()
    assert "success, after 43 steps, episode 3, seed 100003, speed ×0.5" in readable(page)
    assert "No film of a failure was recorded." in readable(page)


def test_imagined_futures_are_embedded_with_a_description(folder: Path, page: str) -> None:
    (picture,) = Outline(page).attributes("img")
    assert picture["alt"]
    content = base64.b64decode(str(picture["src"]).removeprefix("data:image/png;base64,"))
    assert content == (folder / "pretrain" / "media" / "imagined.png").read_bytes()
    assert "samples from the prior" in readable(page)


def test_imagined_futures_take_their_own_caption(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "pretrain" / "media", tmp_path / "media")
    write_json(tmp_path / "media" / "imagined.json", {"caption": "Gap of 12 < 24 frames."})
    assert "Gap of 12 &lt; 24 frames." in imagined_futures(tmp_path)
    shutil.copy(folder / "media" / "rsp-success.mp4", tmp_path / "media" / "imagined.mp4")
    assert "<video" in imagined_futures(tmp_path)
    assert imagined_futures(folder) == ""


def test_curves_configuration_versions_seeds_and_command_are_there(page: str) -> None:
    headings = Outline(page).text("h4")
    for heading in ("Prediction of the future", "KL of posterior and prior", "Rank of the features", "Validation loss"):
        assert heading in headings
    shown = readable(page)
    for content in ("rsp-robot quickstart --out quickstart", "100000 to 100049", "3.3.0", "demonstrations: 100"):
        assert content in shown
    assert "name: bc-random" in shown


def test_text_from_outside_is_escaped(folder: Path, tmp_path: Path) -> None:
    nasty = '</code><script>alert("x")</script>'
    results = load_results(folder)
    arms = (replace(results.arms[0], label=nasty, description=nasty, phrase=nasty), *results.arms[1:])
    texts = {"title": nasty, "task": nasty, "command": nasty, "arms": arms, "config": {nasty: nasty}}
    everything = replace(results, **texts, versions={nasty: nasty}, seeds={nasty: nasty})
    save_results(tmp_path / "results.json", everything)
    write_text(tmp_path / "pretrain" / "config.yaml", nasty)
    shutil.copytree(folder / "media", tmp_path / "media")
    page = write_report(tmp_path).read_text()
    assert Outline(page).open == []
    assert Outline(page).attributes("video")[0]["aria-label"] == f"{nasty}: rollout that ended in success"
    assert len(Outline(page).attributes("script")) == 1
    assert "<script>alert" not in page


def test_the_same_folder_gives_the_same_page(folder: Path, page: str) -> None:
    assert write_report(folder).read_text(encoding="utf-8") == page
    assert [path.name for path in folder.iterdir() if path.name.endswith(".tmp")] == []


def sections(page: str) -> list[str | None]:
    return [attributes["id"] for attributes in Outline(page).attributes("section")]


def test_what_is_missing_has_no_section(folder: Path, page: str, tmp_path: Path) -> None:
    assert sections(page) == ["success", "comparison", "rollouts", "imagined", "learning", "setup"]
    shutil.copy(folder / "results.json", tmp_path)
    bare = write_report(tmp_path).read_text()
    assert Outline(bare).open == []
    assert sections(bare) == ["success", "comparison", "setup"]


def test_broken_pieces_are_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "results.json", tmp_path)
    for name in ("media/rsp-success.mp4", "pretrain/media/imagined.png"):
        write_text(tmp_path / name, "")
    write_text(tmp_path / "media" / "blind-failure.json", "[1")
    write_text(tmp_path / "pretrain" / "config.yaml", "objective: {name: rsp}")
    write_text(tmp_path / "pretrain" / "metrics.jsonl", '3\n{"loss": 1}\n{"step": 1, "loss": NaN, "kl": "x"}\n{"st')
    page = write_report(tmp_path).read_text()
    assert "No metrics of pretraining were logged yet." in page
    assert Outline(page).attributes("video") == Outline(page).attributes("img") == []
    assert sections(page) == ["success", "comparison", "learning", "setup"]


def test_an_arm_that_never_fails_says_so(tmp_path: Path) -> None:
    rows = make_rows({"rsp": 1.0, "blind": 0.0}, episodes=5)
    save_results(tmp_path / "results.json", Results("t", "push", (ARMS[0], ARMS[2]), tuple(rows)))
    make_video(tmp_path / "media" / "rsp-success.mp4", 0, frames=3, size=32)
    shown = readable(write_report(tmp_path).read_text())
    assert "No failure in 5 episodes." in shown
    assert "No success in 5 episodes." in shown


def test_one_arm_alone_and_errors_are_reported(tmp_path: Path) -> None:
    rows = make_rows({"rsp": 0.5}, episodes=10)
    rows[4] |= {"error": "the worker died", "success_once": None, "initial_state": None}
    save_results(tmp_path / "results.json", Results("t", "push", (ARMS[0],), tuple(rows)))
    page = write_report(tmp_path).read_text()
    assert "nothing to compare" in readable(page)
    assert "Errors (left out)" in readable(page)
    assert page.count("cell broken") == 1


def test_bad_results_are_a_user_error_and_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json does not exist"):
        write_report(tmp_path)
    write_text(tmp_path / "results.json", '{"title": "t"')
    with pytest.raises(UserError, match="not valid JSON"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_summary_picture_is_1200_pixels_wide(folder: Path, tmp_path: Path) -> None:
    path = save_summary_picture(load_results(folder), tmp_path / "summary.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1200
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    for light, _ in ARM_COLOURS[:3]:
        assert tuple(int(light[i : i + 2], 16) for i in (1, 3, 5)) in colours


# Curves


def test_column_sorts_drops_what_is_not_finite_and_keeps_the_later_of_two() -> None:
    rows = [
        {"step": 20, "loss": 2.0}, {"step": 10, "loss": 1.0}, {"step": 20, "loss": 3.0}, {"step": 30, "loss": math.nan},
        {"step": 40}, {"step": 50, "loss": True}, {"step": 60, "loss": "4"}, {"step": 70, "loss": math.inf},
    ]  # fmt: skip
    assert column(rows, "loss") == [(10.0, 1.0), (20.0, 3.0)]


def test_thinning_keeps_the_last_point_and_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(1001)]
    thinned = thin(points, 101)
    assert len(thinned) == 101
    assert thinned[-1] == points[-1]
    assert [y for _, y in thinned[:-1]] == pytest.approx([0.5] * 100)
    assert thin(points[:50], 101) == points[:50]


def test_panel_puts_points_where_they_belong() -> None:
    drawing = panel("Loss", [Series("", [(0.0, 0.0), (100.0, 10.0)], "arm-0")])
    (line,) = Outline(drawing).attributes("polyline")
    (x0, y0), (x1, y1) = [map(float, corner.split(",")) for corner in str(line["points"]).split()]
    assert (x0, x1) == (LEFT, WIDTH - RIGHT)
    assert y0 == HEIGHT - BOTTOM  # zero lies on the axis
    assert y1 == pytest.approx(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 1.06, abs=0.06)


def test_panel_is_logarithmic_for_what_falls_far_and_copes_with_one_point() -> None:
    assert "log scale" in panel("Loss", [Series("a", [(0.0, 100.0), (9.0, 0.01)], "arm-0")])
    assert "log scale" not in panel("Loss", [Series("a", [(0.0, 2.0), (9.0, 1.0)], "arm-0")])
    for point in ((0.0, 0.0), (5.0, 3.0), (5.0, -3.0)):
        assert "polyline" in panel("Loss", [Series("a", [point], "arm-0")])
    assert panel("Loss", [Series("a", [], "arm-0")]) == ""


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 5980, [0, 2000, 4000]), (-3, 3, [-2, 0, 2]), (4, 4, [4])],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_numbers_on_axes_are_short() -> None:
    numbers = (0, 0.05, 1.234, 250, 2000, 12500, 2e6, 1.5e-4, -0.5)
    assert [short_number(x) for x in numbers] == ["0", "0.05", "1.23", "250", "2k", "12.5k", "2M", "1.5e-4", "-0.5"]
