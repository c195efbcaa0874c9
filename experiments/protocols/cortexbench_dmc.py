"""CortexBench on the DeepMind control suite: five tasks, no proprioception, the return as the score.

Source:    Majumdar et al., Where are we in the search for an Artificial Visual Cortex?, NeurIPS 2023, and its code
           (eai-vc, mujoco_vc); with RSP's five seeds.
Command:   rsp-robot suite run cortexbench-dmc --encoder rsp=CHECKPOINT --experts runs/experts
           --out runs/cortexbench-dmc
Hardware:  a GPU to encode 256-pixel pictures with a ViT-S; many cores to simulate.
Hours:     unknown, not run here as a whole, and before it the training of five experts.
Expected:  RSP ViT-S/16 61.6 +- 3.4 (as in ToBo, table 2), VC-1 base 64.2 +- 1.9, large 66.9 +- 1.4 (its model card), of
           100: max over training, mean return / 10, not reproduced here. The original's demonstrators reach 971, 918,
           963, 759 and 743 in the order of the tasks: a weaker expert lowers the ceiling.

Cannot be had, and what stands for it:
  data        the archive holds pickled recordings of URLB's DDPG agents. Nobody ships an expert: train one per task,
              rsp-robot rl dmc/walker-walk --encoder state --out runs/experts/dmc-walker-walk
              or give recordings of your own with --data. What the expert reaches is the ceiling: state it.
  crop        224 pixels from the middle of 256; the whole picture is resized to the encoder's input.
"""

from __future__ import annotations

from rsp_robot.experiments.cortexbench import CORTEXBENCH, CORTEXBENCH_QUICK, TRAINING_DIFFERENCES
from rsp_robot.experiments.protocols.protocol import Protocol, ProtocolTask

TASKS = ("walker-stand", "walker-walk", "reacher-easy", "cheetah-run", "finger-spin")

PROTOCOL = Protocol(
    name="cortexbench-dmc",
    tasks=tuple(ProtocolTask(f"dmc/{task}", horizon=500) for task in TASKS),
    cameras=(),  # each task's default is its camera 0
    demonstrations=100,
    episodes=10,
    seeds=(12345, 23451, 34512, 45123, 51234),
    score="return",
    steps_after_success=500,
    proprio=False,
    largest_return=1000.0,
    differences=(
        "dm_control 1.0.28 on MuJoCo 3.3 instead of 1.0.5 on MuJoCo 2",
        "demonstrations by experts trained here on the state instead of the published recordings of DDPG agents; only "
        "those that are a success at some step are recorded",
        "each action is held for two of the suite's steps (500 decisions); the original's text does not say",
        "the whole picture is resized; the original crops 224 of 256 pixels from the middle",
        "all training seeds and encoders play the same 10 start states, so that they can be compared in pairs",
        *TRAINING_DIFFERENCES,
    ),
    **CORTEXBENCH,
)
QUICK = PROTOCOL.shrunk(
    tasks=(ProtocolTask("dmc/reacher-easy", horizon=100),),
    demonstrations=20,
    seeds=(12345, 23451),
    largest_return=200.0,
    **CORTEXBENCH_QUICK,
)
