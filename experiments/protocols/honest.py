"""Ours: one declared checkpoint, the same start states for everybody, an interval on every number.

Source:    this project (docs/statistics.md).
Command:   rsp-robot suite run honest --encoder rsp=runs/rsp random=random:vit-small none --out runs/honest
Hardware:  2 CPU cores suffice for small encoders; encoding the pictures of a ViT-S wants a GPU.
Hours:     unknown as a whole. Quick, 2 encoders on 2 cores: 0.06 (docs/protocols.md).
Expected:  depends on the encoder. For scale, on push (100 demonstrations, 90 of them trained on, 150 steps): a small
           encoder pretrained with RSP on them 44 of 50, the same with random weights 14, blind 1 (docs/results.md).

Tasks:     five of Meta-World in which weights drawn at random leave room above them. On button-press-topdown or
           drawer-open they already solve everything, and a comparison says nothing about an encoder.
Score:     the last checkpoint, as declared. No checkpoint is chosen by the episodes that it is scored on.
"""

from __future__ import annotations

from rsp_robot.experiments.protocols.protocol import Protocol, ProtocolTask

TASKS = ("push-v3", "pick-place-v3", "bin-picking-v3", "assembly-v3", "peg-insert-side-v3")

PROTOCOL = Protocol(
    name="honest",
    tasks=tuple(ProtocolTask(f"metaworld/{task}", horizon=200) for task in TASKS),
    cameras=("closer",),
    image_size=96,
    demonstrations=100,
    episodes=50,
    seeds=(0, 1, 2),
    score="once",
    headline="last",
    steps=2000,
)
QUICK = PROTOCOL.shrunk(
    tasks=tuple(ProtocolTask(f"metaworld/{task}", horizon=150) for task in ("push-v3", "pick-place-v3")),
    image_size=64,
    demonstrations=20,
    episodes=10,
    seeds=(0, 1),
    steps=500,
)
