"""The whole line on a real simulator, through the command line, undisturbed and killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments import quickstart as module
from rsp_robot.experiments.cli import main
from rsp_robot.experiments.comparison.results import load_results
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies.policy import load_policy
from rsp_robot.pretrain.train import MEASURED_BY_THE_CLOCK

TASK, EPISODES, STEPS = "metaworld/button-press-topdown-v3", 2, 150
TOY = [
    "--task", TASK, "--demonstrations", "3", "--horizon", "80", "--episodes", str(EPISODES), "--workers", "2",
    "--image-size", "32", "--encoder-size", "32", "--patch-size", "16", "--device", "cpu",
    "--steps", str(STEPS), "--batch-size", "4", "--bc.steps", "20",
    "--rsp.decoder-width", "32", "--rsp.decoder-depth", "1", "--rsp.decoder-heads", "2",
    "--rsp.groups", "4", "--rsp.classes", "4",
]  # fmt: skip
ARMS = ("rsp", "boxed", "random", "blind")
LIMIT_S = 300  # for one run, which takes about half a minute on two cores


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "rsp_robot.experiments.cli", "quickstart", "--out", str(out), *TOY]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(out: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(out), capture_output=True, text=True, timeout=LIMIT_S, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished toy quickstart and what it printed."""
    pytest.importorskip("metaworld")
    out = tmp_path_factory.mktemp("quickstart") / "undisturbed"
    return out, run(out).stdout


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of ``results.json`` without how long they took."""
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in load_results(out).rows]


def test_every_file_is_there(undisturbed: tuple[Path, str]) -> None:
    out, printed = undisturbed
    assert printed.splitlines()[-1] == str(out / "report.html"), "what was made is the last line"
    assert "RSP" in printed and "95 % interval" in printed
    files = ["config.yaml", "versions.json", "demonstrations.hdf5", "evaluation.jsonl", "results.json", "report.html"]
    files += [f"pretrain/{name}" for name in ("config.yaml", "metrics.jsonl")]
    files += [f"pretrain/media/imagined.{suffix}" for suffix in ("png", "json", "mp4")]
    for folder in ("pretrain/encoder", "encoders/random", *(f"bc-{arm}/policy" for arm in ARMS)):
        files += [f"{folder}/config.json", f"{folder}/model.safetensors"]
    assert [name for name in files if not (out / name).is_file()] == []
    assert any((out / "pretrain" / "checkpoints").glob("step-*.pt"))
    leftovers = [path for path in out.rglob("*") if path.name.endswith((".tmp", ".parts"))]
    assert leftovers == []


def test_what_was_trained_fits_together(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    with DemonstrationFile(out / "demonstrations.hdf5") as file:
        assert (len(file), file.cameras, file.info.image_size, file.info.task) == (3, ("closer",), 32, TASK)
    steps = [row["step"] for row in read_jsonl(out / "pretrain" / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    trained, random = FrozenEncoder.load(out / "pretrain"), FrozenEncoder.load(out / "encoders" / "random")
    assert trained.backbone.config == random.backbone.config, "only the weights differ"
    assert (trained.pooling, trained.preprocessing) == (random.pooling, random.preprocessing)
    assert trained.fingerprint != random.fingerprint
    seen = {arm: load_policy(out / f"bc-{arm}").cameras for arm in ARMS}
    assert seen == {"rsp": ("closer",), "boxed": ("closer",), "random": ("closer",), "blind": ()}
    boxed = FrozenEncoder.load("rsp-robot/small")
    assert boxed.image_size != 32, "it is not of the size that was asked for"
    for arm, encoder in (("rsp", trained), ("boxed", boxed), ("random", random)):
        policy = read_json(out / f"bc-{arm}" / "policy" / "config.json")
        assert policy["encoder"]["fingerprint"] == encoder.fingerprint
    assert read_json(out / "bc-blind" / "policy" / "config.json")["encoder"] is None


def test_rows_are_paired_held_out_and_complete(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    results = load_results(out)
    assert tuple(arm.name for arm in results.arms) == ARMS
    assert [(row["policy"], row["episode"], row["seed"]) for row in results.rows] == [
        (arm, episode, 100_000 + episode) for arm in ARMS for episode in range(EPISODES)
    ]
    assert all(row["task"] == TASK and row["error"] is None for row in results.rows)
    assert all(0 < row["length"] <= 80 for row in results.rows)
    starts = [{row["initial_state"] for row in results.rows if row["episode"] == e} for e in range(EPISODES)]
    assert all(len(states) == 1 for states in starts), "every policy starts in the same state"
    assert starts[0] != starts[1]
    for episode in range(EPISODES):
        returns = [row["return"] for row in results.rows if row["episode"] == episode]
        assert len(set(returns)) == len(ARMS), "the policies act differently"
    assert results.versions["mujoco"] and results.config["quickstart"]["steps"] == STEPS
    assert results.command.startswith("rsp-robot quickstart --out")


def test_report_is_one_file(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    page = (out / "report.html").read_text(encoding="utf-8")
    without_data = re.sub(r"data:[a-z0-9/]+;base64,[A-Za-z0-9+/=]+", "", page)
    for forbidden in ("http:", "https:", "@import", 'src="/', 'src="media'):
        assert forbidden not in without_data
    assert "data:image/png;base64," in page, "the imagined futures"
    assert "data:video/mp4;base64," in page, "the films"
    assert read_json(out / "results.json")["headline"]["verdict"] in page
    for failed in (row["policy"] for row in load_results(out).rows if not row["success_once"]):
        assert (out / "media" / f"{failed}-failure.mp4").stat().st_size > 1000


def test_a_finished_quickstart_does_nothing_twice(
    undisturbed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = undisturbed
    names = ("demonstrations.hdf5", "pretrain/encoder/config.json", "pretrain/media/imagined.png",
             "encoders/random/config.json", "bc-rsp/policy/config.json", "bc-boxed/policy/config.json")  # fmt: skip
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    expected = rows(out)
    monkeypatch.setattr(module, "record_videos", lambda *arguments, **options: {})  # films are made anew: seconds
    assert main(["quickstart", "--out", str(out), *TOY]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")
    assert {name: (out / name).stat().st_mtime_ns for name in names} == before
    assert rows(out) == expected
    assert main(["quickstart", "--out", str(out), *TOY, "--seed", "1"]) == 2
    assert "holds a run with other settings (seed)" in capsys.readouterr().err


def test_killed_while_pretraining_it_ends_with_the_same_rows(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "killed"
    checkpoints = out / "pretrain" / "checkpoints"
    process = subprocess.Popen(
        command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment()
    )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not any(checkpoints.glob("step-*.pt")):
            assert process.poll() is None and time.monotonic() < deadline, "it ended before its first checkpoint"
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert not (out / "pretrain" / "encoder").exists(), "it was killed in the middle of pretraining"
    run(out)
    assert rows(out) == rows(undisturbed[0])
    metrics = [read_jsonl(folder / "pretrain" / "metrics.jsonl") for folder in (out, undisturbed[0])]
    for name in MEASURED_BY_THE_CLOCK:
        for row in (*metrics[0], *metrics[1]):
            row.pop(name)
    assert metrics[0] == metrics[1]
    for name in ("pretrain/encoder", *(f"bc-{arm}/policy" for arm in ARMS)):
        weights = [(folder / name / "model.safetensors").read_bytes() for folder in (out, undisturbed[0])]
        assert weights[0] == weights[1], name


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which ``quickstart`` refuses."""
    assert main(["quickstart", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    return said.err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one")
    line = refused(["--out", str(tmp_path)], capsys)
    assert f"error: {tmp_path} is not empty and holds no run" in line and "give a new folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("metaworld")
    line = refused(["--out", str(tmp_path / "a"), "--task", "metaworld/pusk-v3"], capsys)
    assert "unknown task 'metaworld/pusk-v3'; did you mean metaworld/push-v3" in line
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--camera", "closest"], "closer"),
        (["--arch", "vit-nanno"], "did you mean vit-nano"),
        (["--encoder-size", "64", "--patch-size", "7"], "image size 64 is no multiple of patch size 7"),
        (["--pooling", "clas"], "unknown pooling 'clas'"),
        (["--device", "gpu"], "'gpu' is not a device"),
        (["--demonstrations", "0"], "demonstrations=0 is out of range; choose at least 1"),
        (["--image-size", "8"], "image_size=8 is out of range; choose at least 16"),
    ],
)
def test_mistakes_are_told_before_any_work(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("metaworld")
    monkeypatch.setattr(module, "collect", lambda config: pytest.fail("demonstrations were collected first"))
    monkeypatch.setattr(module, "find_backend", lambda: None)
    assert said in refused(["--out", str(tmp_path / "a"), *words], capsys)
    assert not (tmp_path / "a").exists(), "the corrected command may use the folder"
