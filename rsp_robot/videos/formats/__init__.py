"""The formats that videos come in, by name; other packages add theirs (entry points ``rsp_robot.videos``)."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from rsp_robot.videos.formats.arrays import SUFFIXES as ARRAY_SUFFIXES
from rsp_robot.videos.formats.arrays import Arrays
from rsp_robot.videos.formats.encoded import SUFFIXES as FILM_SUFFIXES
from rsp_robot.videos.formats.encoded import Encoded
from rsp_robot.videos.formats.hdf5 import HDF5
from rsp_robot.videos.formats.hdf5 import SUFFIXES as HDF5_SUFFIXES
from rsp_robot.videos.formats.images import Images
from rsp_robot.videos.formats.lerobot import LeRobot
from rsp_robot.videos.formats.minari import Minari
from rsp_robot.videos.formats.store import Store
from rsp_robot.videos.info import Format
from rsp_robot.videos.moving_digits import DigitsFormat

FORMATS: dict[str, Format] = {made.name: made for made in (Store(), LeRobot(), Minari(), HDF5(), Arrays(), Encoded())}
"""In the order in which they are asked; pictures come last: any folder with a stray picture in it would be one."""
FORMATS |= {entry.name: entry.load()() for entry in entry_points(group="rsp_robot.videos")}
FORMATS[DigitsFormat.name] = DigitsFormat()
FORMATS["images"] = Images()

KNOWN = ", ".join((*FILM_SUFFIXES, *HDF5_SUFFIXES, *ARRAY_SUFFIXES))
"""What a file that holds videos may end in."""


def format_of(path: Path) -> Format | None:
    """Return the format of a file or folder, or None if it is none of videos."""
    return next((candidate for candidate in FORMATS.values() if candidate.claims(path)), None)
