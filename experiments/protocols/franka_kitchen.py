"""Franka kitchen as in R3M, RSP and ToBo: five goals, 25 demonstrations, one camera, the best of 20 evaluations.

Source:    Nair et al., R3M, CoRL 2022, and the branch eval of its code; RSP and ToBo follow it with 4 seeds.
Command:   rsp-robot suite run franka-kitchen --encoder rsp=CHECKPOINT --out runs/kitchen-left
           and once more with --cameras right_cap2 --out runs/kitchen-right
Hardware:  a GPU to encode 256-pixel pictures with a ViT-S; many cores to simulate (the kitchen draws 25 pictures/s).
Hours:     unknown, not run here as a whole. 5 tasks x 4 seeds x 20 evaluations x 50 episodes x 120 steps are 2.4
           million pictures per encoder and camera. Quick, on 2 cores: 0.04.
Expected:  RSP ViT-S/16: knob 31.0 +- 2.4, light 44.5 +- 5.6, sliding door 82.5 +- 2.7, left door 28.8 +- 4.8,
           microwave 30.3 +- 5.6 (as in ToBo, table 1): max over training, mean of 4 seeds, not reproduced here. R3M's
           README: sliding door, left camera, 5 demonstrations: R3M about 60, CLIP about 30.

Cannot be had, and what stands for it:
  simulator   mj_envs of that time on mujoco-py; its kitchen on Gymnasium-Robotics' model (docs/tasks.md).
  data        pickled recordings; demonstrations of our scripts with a little noise.
  horizon     50 steps, at another control rate; 120, since our scripts take up to 80.
  success     evaluate_success of that version was not found; a later one reads the last step, and so does this.
  cameras     "left or right" says the text, and not how the two are put together: one camera per run.
"""

from __future__ import annotations

from rsp_robot.experiments.protocols.protocol import Protocol, ProtocolTask

TASKS = ("knob", "light", "sliding-door", "left-door", "microwave")

PROTOCOL = Protocol(
    name="franka-kitchen",
    tasks=tuple(ProtocolTask(f"kitchen/{task}", horizon=120) for task in TASKS),
    cameras=("left_cap2",),
    image_size=256,
    demonstrations=25,
    episodes=50,
    seeds=(0, 1, 2, 3),
    score="end",
    headline="maximum",
    quality="full",
    action_noise=0.1,
    labels="executed",
    steps_after_success=10,
    history=1,
    pooling="cls",
    head="mlp-r3m",
    normalise_actions="none",
    lr=1e-3,
    schedule="constant",
    weight_decay=0.0,
    batch_size=32,
    steps=20_000,
    evaluate_every=1000,
    differences=(
        "Gymnasium-Robotics' kitchen on MuJoCo 3.3, driven by joint velocities at 12.5 Hz, instead of mj_envs'",
        "demonstrations by our scripts instead of R3M's recordings",
        "120 steps instead of 50",
        "kitchens in which the arm does not reach what has to be moved are drawn again",
        "success is read at the last step; the original's test in that version was not found",
        "the whole picture is resized; the original crops 224 of 256 pixels from the middle",
        "all evaluations play the same 50 start states; the original's move on by one with every evaluation and seed",
        "minibatches are drawn with replacement",
        "in evaluation the batch norm uses the statistics of the whole training set, not a running average of them",
    ),
)
QUICK = PROTOCOL.shrunk(
    tasks=(ProtocolTask("kitchen/sliding-door", horizon=80),),
    image_size=64,
    quality="lean",
    demonstrations=10,
    episodes=10,
    seeds=(0, 1),
    steps=1000,
    evaluate_every=500,
)
