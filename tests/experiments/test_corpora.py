"""Recipes for demonstrations of many tasks, and the command that follows them."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from rsp_robot import open_videos
from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs import describe
from rsp_robot.envs.collect import FIRST_ATTEMPTS
from rsp_robot.envs.registry import check_cameras
from rsp_robot.errors import UserError
from rsp_robot.experiments import corpora
from rsp_robot.experiments.cli import read_options
from rsp_robot.experiments.corpora import CORPORA, find_corpus
from rsp_robot.experiments.presets import find_preset
from rsp_robot.experiments.protocols import find_protocol, to_collect
from rsp_robot.experiments.verbs.corpus import CorpusCommand, run_corpus


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", CORPORA)
def test_every_task_of_a_corpus_can_be_collected_and_none_is_held_out(name: str, quick: bool) -> None:
    corpus = find_corpus(name, quick)
    assert not set(corpus.tasks) & set(corpus.held_out)
    for task in (*corpus.tasks, *corpus.held_out):
        assert describe(task).expert, task
    for part in corpus.parts:
        for task in part.tasks:
            assert check_cameras(describe(task), part.cameras)
    outs = [collection.out for collection in corpus.collections(Path("out"), 1)]
    assert len(set(outs)) == len(outs) == sum(len(part.tasks) for part in corpus.parts)


@pytest.mark.parametrize("name", CORPORA)
def test_the_header_says_where_it_is_from_and_its_command_works(name: str) -> None:
    header = import_module(f"{corpora.__name__}.{name.replace('-', '_')}").__doc__ or ""
    for heading in ("Source:", "Command:", "Hardware:", "Hours:", "Expected:"):
        assert re.search(rf"^{heading} +\S", header, re.MULTILINE), heading
    command = re.search(r"^Command: +(.+)$", header, re.MULTILINE)
    assert command is not None
    words = shlex.split(command[1])
    assert words[:2] == ["rsp-robot", "corpus"] and read_options("corpus", words[2:]).corpus == name


def test_tabletop_is_what_the_encoder_in_the_box_claims() -> None:
    corpus, protocol = find_corpus("tabletop"), find_protocol("tabletop")
    by_suite = {suite: [task for task in corpus.tasks if task.startswith(suite)] for suite in corpus.suites}
    assert {suite: len(tasks) for suite, tasks in by_suite.items()} == {"metaworld": 45, "robosuite": 3, "fetch": 3}
    assert {task.split("/")[0] for task in corpus.held_out} == {"metaworld", "robosuite"}
    judged = {task.task for task in protocol.tasks}
    assert set(corpus.held_out) <= judged, "what was held out is to be judged"
    assert {part.quality for part in corpus.parts} == {"lean", "full"}
    # No episode of a policy's training or evaluation is among those of pretraining.
    most = FIRST_ATTEMPTS + 5 * to_collect(protocol.demonstrations)
    last = protocol.first_start + protocol.episodes
    assert all(part.seed > max(most, last) for part in corpus.parts)
    spans = [(part.seed, part.seed + FIRST_ATTEMPTS + 5 * part.demonstrations) for part in corpus.parts]
    assert all(end <= start or start == seed for seed, end in spans for start, _ in spans if start >= seed)
    for objective in ("rsp", "mae", "siam-mae", "tobo", "vjepa", "srvp"):
        preset = find_preset(f"{objective}-tabletop")
        assert preset.objective.name == objective and preset.image_size == (64 if objective == "srvp" else 96)
        assert [part.split("=")[0].split("/")[-1] for part in preset.data.split(",")] == list(corpus.suites)
        budget = find_preset("rsp-tabletop")
        for name in ("arch", "patch_size", "steps", "batch_size", "base_lr", "min_crop", "flip", "data"):
            assert getattr(preset, name) == getattr(budget, name), name


def test_a_quick_corpus_is_collected_packed_and_continued(tmp_path: Path) -> None:
    command = CorpusCommand("tabletop", tmp_path, quick=True, workers=2)
    packed = run_corpus(command)
    corpus = find_corpus("tabletop", quick=True)
    assert sorted(path.name for path in packed.iterdir()) == sorted(corpus.suites)
    for suite in corpus.suites:
        source = open_videos(str(packed / suite))
        assert len(source.videos) == sum(
            part.demonstrations * len(part.tasks) * len(part.cameras)
            for part in corpus.parts
            if part.tasks[0].startswith(suite)
        )
        assert {(video.height, video.width) for video in source.videos} == {(64, 64)}
    varied = DemonstrationFile(tmp_path / "demonstrations" / "fetch" / "varied" / "Push.hdf5")
    assert varied.info.vary == {"camera": 1.0, "light": 1.0, "colour": 1.0} and varied.info.seed == 510_000
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run_corpus(command) == packed
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was there was made again"


def test_an_unknown_corpus_and_a_wrong_number_of_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown corpus 'tabeltop'; did you mean tabletop"):
        run_corpus(CorpusCommand("tabeltop", tmp_path))
    with pytest.raises(UserError, match="--workers -1 is out of range"):
        run_corpus(CorpusCommand("tabletop", tmp_path, workers=-1))
