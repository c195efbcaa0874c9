"""Films that every browser plays."""

from __future__ import annotations

import os

import numpy as np

from rsp_robot.files import atomic_path


def write_mp4(path: str | os.PathLike[str], frames: np.ndarray, fps: float) -> None:
    """Write frames as an H.264 film that every browser plays, atomically.

    Args:
        path: the file.
        frames: uint8 RGB ``(T, H, W, 3)``, at least one; an odd last row or column is left out, which the codec needs.
        fps: frames per second of the film, at least 1.

    Raises:
        ValueError: other frames.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    import av

    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=max(1, round(fps)), options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
