"""Which way of learning from video helps a policy: every objective on the same demonstrations, judged alike.

Source:    this project (docs/objectives.md).
Command:   rsp-robot suite run objectives --out runs/objectives
Hardware:  2 CPU cores.
Hours:     unknown as a whole. Quick, on 2 cores shared with a test run: 1.1 (docs/protocols.md).
Expected:  docs/results.md.

Tasks:     those of the protocol honest, on which random weights leave room above them.
Budget:    each objective takes as many optimiser steps of as many samples with its preset for small data
           (experiments/presets/*_small.py). A sample is a frame, a pair or a clip, as the objective wants it: computing
           time differs and stands in the table.
Score:     the last checkpoint, as declared.
"""

from __future__ import annotations

from dataclasses import replace

from rsp_robot.experiments.protocols import honest

PROTOCOL = replace(
    honest.PROTOCOL,
    name="objectives",
    encoders=(
        "rsp=pretrain:rsp",
        "mae=pretrain:mae",
        "siam-mae=pretrain:siam-mae",
        "tobo=pretrain:tobo",
        "crobo=pretrain:crobo",
        "vjepa=pretrain:vjepa",
        "vj-vcr=pretrain:vj-vcr",
        "srvp=pretrain:srvp",
        "random=random:vit-nano/16@64",
        "blind=none",
    ),
    pretraining_steps=5000,
    pretraining_batch=32,
)
QUICK = PROTOCOL.shrunk(
    tasks=honest.QUICK.tasks,
    demonstrations=40,
    episodes=20,
    seeds=(0, 1),
    steps=600,
    pretraining_steps=500,
)
