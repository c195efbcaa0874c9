"""Small LeRobot data sets, written to the letter of versions 2.1 and 3.0, whose frames say which they are."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BLOCKS, BLOCK = 12, 8
CAMERAS = {"observation.images.front": "video", "observation.images.wrist": "video"}
TASKS = ("Pick up the cube.", "Open the drawer.")
V21 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
V30 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


def frames_of(episode: int, camera: int, length: int) -> np.ndarray:
    """Pictures ``(T, 24, 96, 3)`` in three strips; a white block in each says frame, episode and camera."""
    frames = np.zeros((length, 3 * BLOCK, BLOCKS * BLOCK, 3), np.uint8)
    for number, frame in enumerate(frames):
        for strip, value in enumerate((number, episode, camera)):
            frame[strip * BLOCK :, value * BLOCK : (value + 1) * BLOCK][:BLOCK] = 255
    return frames


def said(frames: np.ndarray) -> list[tuple[int, ...]]:
    """What each frame says of itself: (frame, episode, camera)."""
    strips = frames.mean(-1).reshape(len(frames), 3, BLOCK, BLOCKS, BLOCK).mean((2, 4))
    assert (np.sort(strips, -1)[..., -1] > 180).all() and (np.sort(strips, -1)[..., -2] < 60).all(), (
        "not one block each"
    )
    return [tuple(map(int, row)) for row in strips.argmax(-1)]


def write_film(path: Path, frames: np.ndarray, fps: int) -> None:
    """Encode as LeRobot does: every second frame a key frame, 4:2:0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps, options={"g": "2", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def table(episode: int, length: int, start: int, pictures: Mapping[str, np.ndarray]) -> pa.Table:
    """The rows of one episode."""
    columns: dict[str, Any] = {
        "action": pa.array([[0.0, 1.0]] * length, pa.list_(pa.float32(), 2)),
        "timestamp": pa.array(np.arange(length, dtype=np.float32) / 10),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, episode),
        "index": np.arange(start, start + length),
        "task_index": np.full(length, episode % len(TASKS)),
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for feature, frames in pictures.items():
        rows = [{"bytes": as_png(frame), "path": f"frame-{number:06d}.png"} for number, frame in enumerate(frames)]
        columns[feature] = pa.array(rows, picture)
    return pa.table(columns)


def as_png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def write_tables(path: Path, tables: Sequence[pa.Table]) -> None:
    """One row group for each table, as LeRobot writes an episode at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for one in tables:
            writer.write_table(one)


def write_info(
    root: Path, version: str, lengths: Sequence[int], fps: int, cameras: Mapping[str, str], **more: Any
) -> None:
    features: dict[str, Any] = {
        name: {"dtype": kind, "shape": [24, 96, 3], "names": ["height", "width", "channels"]}
        for name, kind in cameras.items()
    }
    features |= {"action": {"dtype": "float32", "shape": [2], "names": None}}
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": len(TASKS),
        "chunks_size": 2,
        "fps": fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "features": features,
        **(V21 if version < "v3" else V30),
        **more,
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")


def write_v21(
    root: Path,
    lengths: Sequence[int] = (5, 8, 3),
    fps: int = 10,
    cameras: Mapping[str, str] = CAMERAS,
    version: str = "v2.1",
    **more: Any,
) -> Path:
    """A file of each kind for each episode, two episodes a chunk."""
    write_info(root, version, lengths, fps, cameras, **more)
    start = 0
    for episode, length in enumerate(lengths):
        fields = {"episode_chunk": episode // 2, "episode_index": episode}
        pictures = {}
        for camera, (feature, kind) in enumerate(cameras.items()):
            frames = frames_of(episode, camera, length)
            if kind == "video":
                write_film(root / V21["video_path"].format(video_key=feature, **fields), frames, fps)
            else:
                pictures[feature] = frames
        write_tables(root / V21["data_path"].format(**fields), [table(episode, length, start, pictures)])
        start += length
    rows = [
        {"episode_index": episode, "tasks": [TASKS[episode % 2]], "length": length}
        for episode, length in enumerate(lengths)
    ]
    write_lines(root / "meta/episodes.jsonl", rows)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": n, "task": task} for n, task in enumerate(TASKS)])
    return root


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_v30(
    root: Path,
    lengths: Sequence[int] = (5, 8, 3),
    fps: int = 10,
    cameras: Mapping[str, str] = CAMERAS,
    film_of: Sequence[int] = (0, 0, 1),
    data_of: Sequence[int] = (0, 0, 0),
    edit: Mapping[tuple[int, str], Any] | None = None,
) -> Path:
    """Several episodes in one file.

    Args:
        root: the data set's folder.
        lengths: of the episodes.
        fps: frames per second.
        cameras: features and how they are stored.
        film_of: number of the film that each episode is in.
        data_of: number of the table that each episode is in.
        edit: other values in ``meta/episodes``, by episode and column.
    """
    write_info(root, "v3.0", lengths, fps, cameras)
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    rows = [
        {
            "episode_index": episode,
            "tasks": [TASKS[episode % 2]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": data_of[episode],
            "dataset_from_index": starts[episode],
            "dataset_to_index": starts[episode + 1],
            "stats/action/mean": [0.0, 1.0],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for episode, length in enumerate(lengths)
    ]
    for camera, (feature, kind) in enumerate(cameras.items()):
        if kind != "video":
            continue
        for film in sorted(set(film_of)):
            time, parts = 0.0, []
            for episode in np.flatnonzero(np.asarray(film_of) == film).tolist():
                parts.append(frames_of(episode, camera, lengths[episode]))
                stop = time + lengths[episode] / fps
                rows[episode] |= {
                    f"videos/{feature}/chunk_index": 0,
                    f"videos/{feature}/file_index": film,
                    f"videos/{feature}/from_timestamp": time,
                    f"videos/{feature}/to_timestamp": stop,
                }
                time = stop
            path = V30["video_path"].format(video_key=feature, chunk_index=0, file_index=film)
            write_film(root / path, np.concatenate(parts), fps)
    for data in sorted(set(data_of)):
        tables = []
        for episode in np.flatnonzero(np.asarray(data_of) == data).tolist():
            pictures = {
                feature: frames_of(episode, camera, lengths[episode])
                for camera, (feature, kind) in enumerate(cameras.items())
                if kind == "image"
            }
            tables.append(table(episode, lengths[episode], starts[episode], pictures))
        write_tables(root / V30["data_path"].format(chunk_index=0, file_index=data), tables)
    for (episode, column), value in (edit or {}).items():
        rows[episode][column] = value
    write_tables(root / "meta/episodes/chunk-000/file-000.parquet", [pa.Table.from_pylist(rows)])
    # As pandas writes a frame whose index is the text.
    pq.write_table(pa.table({"task_index": range(2), "__index_level_0__": TASKS}), root / "meta/tasks.parquet")
    return root
