"""``rsp-robot corpus``: collect and pack the demonstrations of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.envs.collect import collect
from rsp_robot.errors import UserError
from rsp_robot.experiments.corpora import find_corpus
from rsp_robot.experiments.verbs.pack import PackCommand, pack
from rsp_robot.machine import available_cores
from rsp_robot.progress import Progress


@dataclass(frozen=True)
class CorpusCommand:
    """Which corpus, and where to."""

    corpus: Annotated[str, tyro.conf.Positional]
    """Name of the recipe: tabletop."""
    out: Path
    """Folder for it: demonstrations/ with a file for each task and part, packed/ with a folder of frames for each
    suite. The same command again continues one that was interrupted."""
    quick: bool = False
    """A few episodes, to see that it runs."""
    workers: int = 0
    """Simulation processes; 0 means one per core. The result does not depend on it."""


def run_corpus(command: CorpusCommand) -> Path:
    """Collect every part, pack every suite, and return the folder of the packed frames.

    Raises:
        UserError: there is no such corpus, the folder holds other settings, or an expert fails too often.
    """
    corpus = find_corpus(command.corpus, command.quick)
    if command.workers < 0:
        raise UserError(f"--workers {command.workers} is out of range; choose 1 or more, or 0 for one per core")
    demonstrations = command.out / "demonstrations"
    wanted = list(corpus.collections(demonstrations, command.workers or available_cores()))
    total = sum(collection.demonstrations for collection in wanted)
    there = sum(collection.demonstrations for collection in wanted if collection.out.exists())
    with Progress(f"corpus {corpus.name}", total, "demonstrations", done=there) as bar:
        for collection in wanted:
            before = collection.out.exists()
            collect(collection, quiet=True)  # looks at what is there, too: it may be of other settings
            if not before:
                bar.say(f"{collection.out}: {collection.demonstrations} demonstrations")
                bar.update(collection.demonstrations)
    for suite in corpus.suites:
        out = command.out / "packed" / suite
        pack(PackCommand(out, str(demonstrations / suite), short_side=corpus.image_size))
    return command.out / "packed"
