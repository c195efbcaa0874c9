"""What CortexBench's three suites of simulated tasks have in common: pictures, behaviour cloning, schedule.

Source:    Majumdar et al., Where are we in the search for an Artificial Visual Cortex?, NeurIPS 2023, and its code
           (eai-vc, mujoco_vc).
"""

from __future__ import annotations

from typing import Any

CORTEXBENCH: dict[str, Any] = {
    "image_size": 256,
    "headline": "maximum",
    "quality": "full",
    "action_noise": 0.0,
    "labels": "executed",
    "history": 3,
    "fusion": "difference",
    "pooling": "cls",
    "head": "mlp-cortexbench",
    "normalise_actions": "none",
    "lr": 1e-3,
    "schedule": "constant",
    "weight_decay": 0.0,
    "batch_size": 256,
    "epochs": 100,
    "evaluate_every": 5,
}
CORTEXBENCH_QUICK: dict[str, Any] = {
    "image_size": 64,
    "quality": "lean",
    "episodes": 10,
    "epochs": 20,
    "evaluate_every": 10,
}
TRAINING_DIFFERENCES = (
    "minibatches are drawn with replacement; the evaluations come after epochs 5, 10, ..., 100, in the original "
    "after 6, 11, ..., 96, 100",
    "in evaluation the batch norm uses the statistics of the whole training set, not a running average of them",
)
