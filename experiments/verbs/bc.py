"""``rsp-robot bc``: train a policy by behaviour cloning on whatever it sees with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc


@dataclass(frozen=True)
class BCCommand:
    """What a policy is trained on, what it sees with, and where it goes.

    Only what comes after the frozen encoder learns, except with --encoder scratch or --finetune. The settings of each
    head are under its name: --head gmm --gmm.modes 5.
    """

    data: tuple[Path, ...]
    """Demonstrations, *.hdf5; files of several tasks make one policy for all of them."""
    out: Path
    """Run folder to write; the same command again continues what is there."""
    encoder: str = "none"
    """Anything that loads as an encoder: an encoder folder, a run folder of `rsp-robot pretrain`, a published
    checkpoint, timm:<model>, random:<arch>; or scratch (a small CNN that is trained with the policy), state (the
    simulator's state instead of pictures), none (blind: proprioception alone)."""
    bc: Annotated[BCConfig, tyro.conf.arg(name="")] = field(default_factory=BCConfig)


def bc(command: BCCommand) -> Path:
    """Train the policy; return its folder.

    Raises:
        UserError: the data or the encoder cannot be read, settings do not go together, or ``out`` holds another run.
    """
    return train_bc(command.data, command.encoder, command.out, command.bc)
