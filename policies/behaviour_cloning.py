"""Behaviour cloning: demonstrations, something to see with, a head; one trainer for all of them.

With a frozen encoder only the policy learns: pictures are embedded once and kept, so that a run takes seconds. Without
one the policy is blind, sees the simulator's state, or learns to see by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.files import write_text
from rsp_robot.policies.bc_config import BCConfig
from rsp_robot.policies.bc_data import assemble, measure, read_frames
from rsp_robot.policies.bc_folder import PolicyWriter, describe_policy
from rsp_robot.policies.bc_policy import BCPolicy
from rsp_robot.policies.embeddings import content_hash, embed_demonstrations
from rsp_robot.policies.episodes import Recording, choose_cameras, read_recording
from rsp_robot.policies.fitting import fit
from rsp_robot.policies.frozenness import FrozenGuard
from rsp_robot.policies.network import NetworkShape, PolicyNetwork
from rsp_robot.policies.policy import load_policy
from rsp_robot.policies.sight import SCRATCH, STATE, Sight, choose_sight
from rsp_robot.run_folder import RunFolder

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.policies.embedding_cache import EmbeddingCache

__all__ = ["BCConfig", "BCPolicy", "load_policy", "train_bc"]


def train_bc(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    encoder: FrozenEncoder | str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    config: BCConfig | None = None,
    resume: bool = True,
    *,
    encoder_source: str | os.PathLike[str] | None = None,
    cache: EmbeddingCache | None = None,
) -> Path:
    """Clone the demonstrations of one or more files into a policy.

    On the CPU the same data, encoder and configuration give the same policy to the last bit on the same kind of
    machine. A finished run is returned at once; one that was killed is trained anew, from embeddings that are kept.
    Episodes with numbers that are not finite are set aside and named in ``quarantine.txt`` of the run folder.

    Args:
        data: demonstration file or files (.hdf5); their masks say what is for training and for validation. Files of
            several tasks make a multi-task policy.
        encoder: the frozen encoder to look through, or what :meth:`FrozenEncoder.load` takes; ``"scratch"`` for a
            convolutional network that is trained with the policy, ``"state"`` for the simulator's state (an oracle),
            None or ``"none"`` for a blind policy.
        out: the run folder.
        config: policy and training.
        resume: go on with ``out`` where it holds this run already; otherwise it must be empty or missing.
        encoder_source: where the encoder can be loaded from, recorded so that the policy finds it again; by default
            what was given as ``encoder``, or the encoder's own attribute ``source``.
        cache: keeps embeddings; by default the user's own cache.

    Returns:
        the policy folder, ``<out>/policy``.

    Raises:
        UserError: damaged or incomplete data, files or settings that do not go together, no such camera, a folder that
            holds something else, a diverging loss.
        RuntimeError: the encoder's weights changed meanwhile.
    """
    config = config or BCConfig()
    paths = [Path(data)] if isinstance(data, (str, os.PathLike)) else [Path(path) for path in data]
    if not paths:
        raise UserError("no demonstrations to learn from; give at least one file")
    device = pick_device(config.device)
    sight = choose_sight(encoder, config, device)
    with ExitStack() as stack:
        files = [stack.enter_context(DemonstrationFile(path)) for path in paths]
        cameras = choose_cameras(files, config.cameras, sight.needs_pictures)
        hashes = [content_hash(path) for path in paths]
        settings = config.relevant(scratch=sight.kind == SCRATCH) | {
            "cameras": cameras,
            "data": [path.name for path in paths],
            "data_sha256": hashes,
            "encoder": sight.label,
        }
        folder = Path(out)
        if (folder / "policy" / "config.json").is_file():
            RunFolder.open(folder, settings, resume=resume)
            return folder / "policy"
        # What can be wrong with the input is found before there is a folder.
        recording = read_recording(files, config.labels, state=sight.kind == STATE, proprio=config.proprio)
        held_out = [episode for episode in recording.episodes if episode.demo in files[episode.file].valid]
        if config.keep == "valid" and not held_out:
            raise UserError("keep valid needs held-out demonstrations, and there are none; use keep last")
        generator = torch.Generator().manual_seed(config.seed)
        network = make_network(recording, len(cameras), sight, config, generator)
        description = describe_policy(files, recording, sight, cameras, network, config) | {"training": settings}
        pictures = read_frames(files, cameras) if sight.live else None
        run = RunFolder.open(folder, settings, resume=resume)
        run.forget_after(-1)
        _report_quarantine(run, recording)
        if sight.augmented:
            print("pictures are shifted at random: encoded anew in every batch, nothing is cached", file=sys.stderr)
        guard = None if sight.encoder is None else FrozenGuard(sight.encoder)
        if pictures is None and sight.encoder is not None:
            pictures = _embed(files, hashes, sight.encoder, cameras, cache, config.half_cache)
        scalings = measure(files, recording, config.normalise_actions)
        in_network = sight.live or len(network.shape.embedding) > 1
        bc_data = assemble(files, recording, scalings, pictures, config.history, config.fusion, in_network)
    source = _source(encoder, encoder_source)
    writer = PolicyWriter(network, scalings, sight, guard, source, description)

    def put_aside(step: int) -> None:
        writer.write(run.checkpoints / f"step-{step:06d}", f"checkpoint at step {step} of {config.steps}, not chosen")

    with guard.borrowed() if guard else nullcontext():
        kept = fit(
            network.to(device), bc_data.to(device), config, generator, run, f"clone {folder.name}", put_aside
        )  # fmt: skip
    run.close()
    return writer.write(folder / "policy", kept)


def make_network(
    recording: Recording, cameras: int, sight: Sight, config: BCConfig, generator: torch.Generator
) -> PolicyNetwork:
    """Build the network for what was recorded and what it is seen with; ``generator`` draws its first weights.

    Raises:
        UserError: the head cannot use what it is given.
    """
    some = recording.episodes[0]
    eyes = sight.make_eyes(config, generator)
    shape = NetworkShape(
        actions=some.actions.shape[1],
        proprio=some.proprio.shape[1],
        cameras=cameras if some.state is None else 1,
        embedding=sight.embedding(eyes, None if some.state is None else some.state.shape[1]),
        history=config.history,
        fusion=config.fusion,
        attentive=sight.attentive,
        tasks=len(recording.tasks),
    )
    entry, settings = config.head_settings()
    return PolicyNetwork(shape, entry, settings, eyes, generator=generator)


def _embed(
    files: Sequence[DemonstrationFile],
    hashes: Sequence[str],
    encoder: FrozenEncoder,
    cameras: Sequence[str],
    cache: EmbeddingCache | None,
    half: bool,
) -> list[list[np.ndarray]]:
    """Return the embeddings of every file and camera, from the cache or computed into it."""
    return [
        [embed_demonstrations(file, digest, encoder, camera, cache, half=half) for camera in cameras]
        for file, digest in zip(files, hashes, strict=True)
    ]


def _source(
    encoder: FrozenEncoder | str | os.PathLike[str] | None, given: str | os.PathLike[str] | None
) -> str | os.PathLike[str] | None:
    """Return where the encoder can be loaded from, as far as anybody said."""
    if given is not None:
        return given
    return encoder if isinstance(encoder, (str, os.PathLike)) else getattr(encoder, "source", None)


def _report_quarantine(run: RunFolder, recording: Recording) -> None:
    """Name the episodes that were set aside in a file of the run and in a line on stderr."""
    lines = recording.quarantined
    if lines:
        write_text(run.path / "quarantine.txt", "".join(f"{line}\n" for line in lines))
        total = len(lines) + len(recording.episodes)
        where = run.path / "quarantine.txt"
        print(f"{len(lines)} of {total} episodes set aside ({lines[0]}); all are in {where}", file=sys.stderr)
