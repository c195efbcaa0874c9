"""CortexBench on Adroit: a pen and a ball in a hand of 24 joints, success that has to last.

Source:    Majumdar et al., Where are we in the search for an Artificial Visual Cortex?, NeurIPS 2023, and its code
           (eai-vc, mujoco_vc); with RSP's seeds 1 to 5.
Command:   rsp-robot suite run cortexbench-adroit --encoder rsp=CHECKPOINT --data data/adroit
           --out runs/cortexbench-adroit
Hardware:  a GPU to encode 256-pixel pictures with a ViT-S; many cores to simulate.
Hours:     unknown, not run here.
Expected:  RSP ViT-S/16 45.6 +- 4.6 (as in ToBo, table 2), VC-1 base 48.7 +- 2.4, large 59.3 +- 5.2 (its model card;
           others who ran it report 37.3 and 47.3 for large): max over training, not reproduced here.

Cannot be had, and what stands for it:
  data        the archive holds pickled recordings of mujoco-py's first Adroit. Nobody ships an expert for this version,
              and reinforcement learning on the state takes days: bring files of your own with --data, named
              adroit-pen.hdf5 and adroit-relocate.hdf5, or experts with --experts.
  crop        224 pixels from the middle of 256; the whole picture is resized to the encoder's input.
  starts      those that each training seed draws, in all its evaluations; 25 from seed 100000 on, for all seeds.
  episodes    25 as in the later release; the first one had 10.
"""

from __future__ import annotations

from rsp_robot.experiments.cortexbench import CORTEXBENCH, CORTEXBENCH_QUICK, TRAINING_DIFFERENCES
from rsp_robot.experiments.protocols.protocol import Protocol, ProtocolTask

PROTOCOL = Protocol(
    name="cortexbench-adroit",
    tasks=(
        ProtocolTask("adroit/pen", horizon=100, lasting=20),
        ProtocolTask("adroit/relocate", horizon=200, lasting=25),
    ),
    cameras=("vil_camera",),
    demonstrations=100,
    episodes=25,
    seeds=(1, 2, 3, 4, 5),
    score="lasting",
    steps_after_success=200,
    differences=(
        "Gymnasium-Robotics' Adroit on MuJoCo 3.3 instead of mj_envs' on mujoco-py",
        "demonstrations are your own: the published ones are of another simulator",
        "the whole picture is resized; the original crops 224 of 256 pixels from the middle",
        "all training seeds and encoders play the same 25 start states, so that they can be compared in pairs",
        *TRAINING_DIFFERENCES,
    ),
    **CORTEXBENCH,
)
QUICK = PROTOCOL.shrunk(
    tasks=PROTOCOL.tasks[:1],
    demonstrations=20,
    seeds=(1, 2),
    **CORTEXBENCH_QUICK,
)
