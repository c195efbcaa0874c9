"""What ``rsp-robot doctor`` has a process of its own do with one suite; prints one line of JSON. Free of torch.

Run as ``python -m rsp_robot.experiments.doctor.examination SUITE SECONDS SIZE PICTURE``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.registry import load_suite, make

MARK = "EXAMINED "
SHOWN_SIZE = 240


def examine(suite: str, seconds: float, size: int, picture: Path) -> dict[str, Any]:
    """Reset twice, mix two scenes, measure the speed of both qualities, save a picture; say what came of it."""
    from PIL import Image

    tasks = load_suite(suite).tasks()
    task, other = f"{suite}/{tasks[0]}", f"{suite}/{tasks[-1]}"
    env = make(task, image_size=size)
    camera = env.cameras[0]
    first, name = env.reset(seed=0)[0], env.state_hash()
    env.reset(seed=1)
    elsewhere = env.state_hash()
    again = env.reset(seed=0)[0]
    same = name == env.state_hash() and all(np.array_equal(first[key], again[key]) for key in first)
    with_other = make(other, image_size=size)
    with_other.reset(seed=0)
    own = np.array_equal(env.reset(seed=0)[0][camera], first[camera])
    with_other.close()
    own = own and np.array_equal(env.reset(seed=0)[0][camera], first[camera])
    lean = frames_per_second(env, seconds)
    env.reset(seed=0)
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(env.render(size=SHOWN_SIZE)).save(picture, format="PNG")
    env.close()
    full = make(task, image_size=size, quality="full")
    full.reset(seed=0)
    full_rate = frames_per_second(full, seconds)
    full.close()
    return {
        "task": task,
        "camera": camera,
        "contrast": float(first[camera].std()),
        "same_seed_same_episode": bool(same and name != elsewhere),
        "scenes_stay_apart": bool(own),
        "lean_frames_s": lean,
        "full_frames_s": full_rate,
    }


def frames_per_second(env: VisualEnv, seconds: float) -> float:
    """Measure simulated and rendered steps per second, one at least."""
    rest = np.zeros(env.action_space.shape or (), np.float32)
    frames, start = 0, time.perf_counter()
    while not frames or time.perf_counter() - start < seconds:
        *_, truncated, _ = env.step(rest)
        frames += 1
        if truncated:
            env.reset(seed=frames)
    return frames / (time.perf_counter() - start)


if __name__ == "__main__":
    from rsp_robot.envs.rendering import promise_no_torch

    promise_no_torch()
    found = examine(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    print(MARK + json.dumps(found))
