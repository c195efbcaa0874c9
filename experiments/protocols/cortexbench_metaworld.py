"""CortexBench on Meta-World: five tasks, 25 demonstrations, the best of 20 evaluations.

Source:    Majumdar et al., Where are we in the search for an Artificial Visual Cortex?, NeurIPS 2023, and its code
           (eai-vc, mujoco_vc); with RSP's five seeds.
Command:   rsp-robot suite run cortexbench-metaworld --encoder rsp=CHECKPOINT --out runs/cortexbench-metaworld
Hardware:  a GPU to encode 256-pixel pictures with a ViT-S; many cores to simulate.
Hours:     unknown, not run here as a whole: 5 tasks x 5 seeds x 20 evaluations x 25 episodes x 500 steps are 6.25
           million pictures per encoder. Quick, 2 encoders on 2 cores: 0.1 (docs/protocols.md).
Expected:  RSP ViT-S/16 84.5 +- 6.6 (as in ToBo, table 2), VC-1 base 85.3 +- 5.2, large 88.8 +- 2.2 (its model card):
           max over training, mean over five seeds (VC-1: three), not reproduced here.

Cannot be had, and what stands for it:
  top_cap2    the camera is in a fork of Meta-World whose model files were not found; corner2, Meta-World's own.
  data        the archive holds pickled files of Meta-World 2 on mujoco-py; demonstrations of Meta-World 3's scripts,
              without noise, to the horizon.
  crop        224 pixels from the middle of 256; the whole picture is resized to the encoder's input.
  starts      the 25 that each training seed draws, in all its evaluations; 25 from seed 100000 on, for all seeds.
"""

from __future__ import annotations

from rsp_robot.experiments.cortexbench import CORTEXBENCH, CORTEXBENCH_QUICK, TRAINING_DIFFERENCES
from rsp_robot.experiments.protocols.protocol import Protocol, ProtocolTask

TASKS = ("assembly-v3", "bin-picking-v3", "button-press-topdown-v3", "drawer-open-v3", "hammer-v3")

PROTOCOL = Protocol(
    name="cortexbench-metaworld",
    tasks=tuple(ProtocolTask(f"metaworld/{task}", horizon=500) for task in TASKS),
    cameras=("corner2",),
    demonstrations=25,
    episodes=25,
    seeds=(12345, 23451, 34512, 45123, 51234),
    score="end",
    steps_after_success=500,
    differences=(
        "Meta-World 3 on MuJoCo 3.3 instead of Meta-World 2 (goal observable) on mujoco-py: physics and looks differ",
        "camera corner2 instead of top_cap2, whose pose was found nowhere",
        "demonstrations by Meta-World's scripts in this version instead of the published archive",
        "the whole picture is resized; the original crops 224 of 256 pixels from the middle",
        "all training seeds and encoders play the same 25 start states, so that they can be compared in pairs; in the "
        "original each training seed has its own 25, the same in all of its 20 evaluations",
        *TRAINING_DIFFERENCES,
    ),
    **CORTEXBENCH,
)
QUICK = PROTOCOL.shrunk(
    tasks=tuple(
        ProtocolTask(f"metaworld/{task}", horizon=120) for task in ("button-press-topdown-v3", "drawer-open-v3")
    ),
    demonstrations=10,
    seeds=(12345, 23451),
    **CORTEXBENCH_QUICK,
)
