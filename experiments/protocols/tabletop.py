"""Is an encoder that was pretrained on many tasks worth anything to a policy, on tasks it has seen and on others?

Source:    this project (docs/tabletop.md).
Command:   rsp-robot suite run tabletop --out runs/tabletop
Hardware:  2 CPU cores.
Hours:     docs/tabletop.md.
Expected:  docs/results.md, "An encoder in the box".

Tasks:     the six of Meta-World on which weights drawn at random left most room above them with a class token (how much
           with this pooling: docs/results.md); two of them, and four more, are held out of the corpus of the same name
           (experiments/corpora/tabletop.py).
Pooling:   the means of the four quarters of the patches, which keep where things are (docs/results.md compares others).
Score:     the last checkpoint, as declared.
"""

from __future__ import annotations

from dataclasses import replace

from rsp_robot.experiments.corpora.tabletop import HELD_OUT
from rsp_robot.experiments.protocols import honest
from rsp_robot.experiments.protocols.protocol import ProtocolTask

DISCRIMINATING = {
    "metaworld/push-v3": ("closer", 150),
    "metaworld/pick-place-v3": ("closer", 150),
    "metaworld/bin-picking-v3": ("closer", 200),
    "metaworld/assembly-v3": ("closer", 200),
    "metaworld/peg-insert-side-v3": ("close", 200),
    "metaworld/hammer-v3": ("close", 200),
}
"""Tasks, the camera that shows all that matters in them, and the horizon: half as long again as the script takes."""
OTHERS = {task: ("close", 200) for task in HELD_OUT if task.startswith("metaworld/") and task not in DISCRIMINATING}
ROBOSUITE = {"robosuite/Lift": ("agentview", 150), "robosuite/Stack": ("agentview", 150)}

PROTOCOL = replace(
    honest.PROTOCOL,
    name="tabletop",
    tasks=tuple(
        ProtocolTask(task, horizon=horizon, cameras=(camera,))
        for task, (camera, horizon) in (DISCRIMINATING | OTHERS | ROBOSUITE).items()
    ),
    cameras=(),
    pooling="grid2",
    against=("random", "mae"),
    encoders=("small=rsp-robot/small", "random=random:vit-nano/16@96", "scratch", "blind=none", "state"),
)
QUICK = PROTOCOL.shrunk(
    tasks=PROTOCOL.tasks[:2],
    demonstrations=20,
    episodes=10,
    seeds=(0, 1),
    steps=500,
)
