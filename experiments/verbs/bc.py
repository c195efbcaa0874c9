"""``rsp-robot bc``: load a frozen encoder, or none, and train a policy on it by behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc

NO_ENCODER = "none"


@dataclass(frozen=True)
class BCCommand:
    """What a policy is trained on, through which eyes, and where it goes."""

    data: Path
    """Demonstrations, *.hdf5."""
    out: Path
    """Run folder to write; the same command again continues what is there."""
    encoder: str = NO_ENCODER
    """Encoder folder, run folder of `rsp-robot pretrain`, or random:<arch>; none trains a blind policy."""
    bc: Annotated[BCConfig, tyro.conf.arg(name="")] = field(default_factory=BCConfig)


def bc(command: BCCommand) -> Path:
    """Train the policy; return its folder.

    Raises:
        UserError: the data or the encoder cannot be read, or ``out`` holds another run.
    """
    encoder = None if command.encoder == NO_ENCODER else command.encoder
    return train_bc(command.data, encoder, command.out, command.bc)
