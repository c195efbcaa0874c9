"""The report in a real browser: what a parser of the page cannot know."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsp_robot.experiments import cli
from rsp_robot.files import append_jsonl, write_json, write_text
from rsp_robot.films import write_mp4

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--mute-audio", "--hide-scrollbars",
    "--autoplay-policy=no-user-gesture-required", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
TASKS = ("toy/reach", "toy/leave")
RATES = {"rsp": 0.8, "random": 0.45, "blind": 0.1}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


class Browser:
    """A headless Chromium, spoken to over its debugging pipe: JSON messages that end in a zero byte."""

    def __init__(self, profile: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # Chromium reads file descriptor 3 and writes 4; bash, unlike sh, redirects those above 9 too.
        line = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; what the console said meanwhile is kept in ``complaints``."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._listen(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], 60)
            assert ready, "Chromium does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "Chromium ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _listen(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(str(details["exceptionDetails"]))
            case "Log.entryAdded" if details["entry"]["level"] in ("error", "warning"):
                self.complaints.append(details["entry"]["text"])
            case "Runtime.consoleAPICalled" if details["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(details["args"]))
            case "Network.requestWillBeSent" if not details["request"]["url"].startswith(("file:", "data:")):
                self.complaints.append(f"asked for {details['request']['url'][:200]}")

    def open(self, page: Path, width: int = 1200, height: int = 900, **features: str) -> None:
        """Open a page and wait until it is there."""
        self.complaints.clear()
        mobile = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        told = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", media="", features=told)
        self.send("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete' && !!document.querySelector('main')")

    def eval(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.eval(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and let go of a key."""
        code = {"Enter": 13, "Tab": 9}[key]
        words = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **words)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def close(self) -> None:
        """End the browser and everything it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def make_experiment(folder: Path) -> list[str]:
    """Three policies, two tasks, two training seeds, with films, curves and imagined futures; the words for it all."""
    rng = np.random.default_rng(0)
    for seed in range(2):
        for task in TASKS:
            rows = folder / f"seed{seed}" / f"{task.replace('/', '-')}.jsonl"
            for name, rate in RATES.items():
                for i, solved in enumerate(rng.uniform(size=20) < rate):
                    append_jsonl(rows, {
                        "policy": name, "task": task, "episode": i, "seed": 100 + i, "initial_state": f"{task} {i}",
                        "success_once": bool(solved), "success_at_end": bool(solved), "first_success": 5, "error": None,
                    })  # fmt: skip
            policies = {name: f"{name} {task} {seed}" for name in RATES}
            write_json(rows.with_suffix(".plan.json"), {"versions": {"mujoco": "3.3.0"}, "policies": policies})
            if seed == 0:
                for name in RATES:
                    film = rows.parent / "media" / f"{name}-{task.replace('/', '-')}-success.mp4"
                    film.parent.mkdir(exist_ok=True)
                    write_mp4(film, rng.integers(0, 255, (40, 64, 64, 3), np.uint8), 20.0)
                    told = {"policy": name, "task": task, "success_once": name != "blind", "episode": 0, "seed": 100}
                    write_json(film.with_suffix(".json"), told)
        for name in RATES:
            for step in range(0, 500, 50):
                row = {"step": step, "loss": float(np.exp(-step / 200) + 0.1 * rng.uniform()), "valid_loss": 0.5}
                append_jsonl(folder / f"bc-{name}-{seed}" / "metrics.jsonl", row)
    run = folder / "pretrain"
    write_text(run / "config.yaml", "objective: {name: rsp}\n")
    for step in range(10):
        append_jsonl(run / "metrics.jsonl", {"step": step, "loss": 1 / (1 + step), "kl": 0.1 + step})
    (run / "media").mkdir()
    Image.fromarray(rng.integers(0, 255, (60, 200, 3), np.uint8)).save(run / "media" / "imagined.png")
    words = [
        f"{name}=" + ",".join(
            [f"{folder}/seed{seed}/{task.replace('/', '-')}.jsonl:{name}" for seed in range(2) for task in TASKS]
            + [f"{folder}/bc-{name}-{seed}" for seed in range(2)]
        )
        for name in RATES
    ]  # fmt: skip
    return [*words, str(run)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    out = folder / "report.html"
    assert cli.main(["report", *make_experiment(folder), "--out", str(out)]) == 0
    return out


SECTIONS = ["success", "profiles", "comparison", "rollouts", "imagined", "learning", "setup"]
DRAWN = """[...document.querySelectorAll("svg, img")].filter(
    (one) => one.tagName === "IMG" ? !(one.complete && one.naturalWidth > 0) : !(
        one.getBoundingClientRect().width > 5 && one.getBoundingClientRect().height > 5
        && one.querySelector("rect, line, polyline, circle, text, svg"))).length"""
COLUMN = """[...document.querySelectorAll("#success table")[0].tBodies[0].rows].map((row) => row.cells[0].innerText)"""


def test_the_page_opens_without_a_complaint_and_everything_is_drawn(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.eval("[...document.querySelectorAll('section')].map((one) => one.id)") == SECTIONS
    assert browser.eval("document.querySelectorAll('svg').length") >= 15
    browser.wait("[...document.images].every((one) => one.complete)")
    assert browser.eval(DRAWN) == 0
    assert browser.eval("document.querySelector('#learning .band').getBoundingClientRect().height") > 2
    assert browser.eval("document.querySelector('#profiles polyline').getBoundingClientRect().width") > 300
    assert browser.complaints == []


def test_a_complaint_would_be_heard(browser: Browser, page: Path, tmp_path: Path) -> None:
    broken = page.read_text(encoding="utf-8").replace(
        "<script>", "<script>\nsetTimeout(() => nothing.here); new Image().src = 'https://example.invalid/a.png';\n", 1
    )
    write_text(tmp_path / "broken.html", broken)
    browser.open(tmp_path / "broken.html")
    time.sleep(0.3)
    browser.eval("1")
    assert any("nothing is not defined" in complaint for complaint in browser.complaints)
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_films_play(browser: Browser, page: Path) -> None:
    browser.open(page)
    video = "document.querySelector('#rollouts video')"
    browser.eval(f"{video}.scrollIntoView()")
    browser.wait(f"{video}.readyState >= 3 && {video}.videoWidth === 64")
    browser.wait(f"{video}.currentTime > 0.2 && !{video}.paused")
    assert browser.eval("[...document.querySelectorAll('video')].filter((one) => one.error).length") == 0
    assert browser.complaints == []


def test_films_wait_for_readers_who_want_less_motion(browser: Browser, page: Path) -> None:
    browser.open(page, prefers_reduced_motion="reduce")
    assert browser.eval("[...document.querySelectorAll('video')].every((one) => one.paused && !one.autoplay)")


def test_a_table_sorts_by_mouse_and_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.eval(COLUMN) == ["rsp", "random", "blind"]
    head = "document.querySelector('#success table').tHead.rows[0].cells"
    mean = browser.eval(f"[...{head}].findIndex((one) => one.innerText.includes('Mean'))")
    place = browser.eval(
        f"(() => {{ const b = {head}[{mean}].querySelector('button'); b.scrollIntoView({{block: 'center'}});"
        "const r = b.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    for expected, state in ((["rsp", "random", "blind"], "descending"), (["blind", "random", "rsp"], "ascending")):
        for kind in ("mousePressed", "mouseReleased"):
            browser.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        assert browser.eval(COLUMN) == expected
        assert browser.eval(f"{head}[{mean}].getAttribute('aria-sort')") == state
    browser.eval(f"{head}[0].querySelector('button').focus()")
    browser.press("Enter")
    assert browser.eval(COLUMN) == ["blind", "random", "rsp"]
    browser.press("Enter")
    assert browser.eval(COLUMN) == ["rsp", "random", "blind"]
    assert browser.eval(f"[...{head}].map((one) => one.getAttribute('aria-sort'))").count("none") == 9
    browser.press("Tab")
    assert browser.eval("document.activeElement.innerText") == "Seeds"


def choose(browser: Browser, name: str, value: str) -> None:
    browser.eval(
        f"(() => {{ const list = document.querySelector('select[name={name}]'); list.value = '{value}';"
        "list.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def test_films_are_filtered(browser: Browser, page: Path) -> None:
    browser.open(page)
    visible = "[...document.querySelectorAll('.film')].filter((one) => one.checkVisibility())"
    shown = f"{visible}.map((one) => [one.dataset.policy, one.dataset.task])"
    said = "document.querySelector('.choices output').innerText"
    assert len(browser.eval(shown)) == 6
    assert browser.eval(said) == "6 films"
    choose(browser, "outcome", "failure")
    assert browser.eval(shown) == [["blind", task] for task in TASKS]
    assert browser.eval("[...document.querySelectorAll('.rollout')].filter((one) => one.checkVisibility()).length") == 1
    choose(browser, "task", TASKS[1])
    assert browser.eval(shown) == [["blind", TASKS[1]]]
    assert browser.eval(said) == "1 film"
    choose(browser, "policy", "rsp")
    assert browser.eval(shown) == []
    choose(browser, "outcome", "")
    assert browser.eval(shown) == [["rsp", TASKS[1]]]
    hidden = "[...document.querySelectorAll('.film video')].filter((one) => !one.checkVisibility())"
    assert browser.eval(f"{hidden}.every((one) => one.paused)")


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_sticks_out_of_the_page(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.eval("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.eval("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('p, td, figcaption, svg text')].filter((one) => one.checkVisibility()"
    assert browser.eval(f"{small} && parseFloat(getComputedStyle(one).fontSize) < 11).length") == 0


def luminance(browser: Browser, expression: str) -> float:
    colour = browser.eval(f"({expression}).match(/[0-9.]+/g).map(Number)")
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), colour, strict=False)) / 255


def test_it_is_dark_in_the_dark(browser: Browser, page: Path) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        browser.open(page, prefers_color_scheme=scheme)
        assert (luminance(browser, "getComputedStyle(document.body).backgroundColor") < 0.2) is dark
        for selector, key in (("h1", "color"), (".chart", "color"), ("svg text", "fill"), ("td", "color")):
            ink = luminance(browser, f"getComputedStyle(document.querySelector('{selector}')).{key}")
            assert (ink > 0.4) is dark, selector


def test_print_has_no_controls_and_cuts_no_table(browser: Browser, page: Path) -> None:
    browser.open(page, width=760)
    browser.send("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.eval("document.querySelector('.choices').checkVisibility()") is False
    cut = "[...document.querySelectorAll('.table')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
    assert browser.eval(cut) == 0
    arrow = "getComputedStyle(document.querySelector('thead button'), '::after').display"
    assert browser.eval(arrow) == "none"
    pdf = base64.b64decode(browser.send("Page.printToPDF", printBackground=True, transferMode="ReturnAsBase64")["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    assert browser.eval("[...document.querySelectorAll('details')].every((one) => one.open)")
