"""Whether a video file is whole, by the sizes that its own structure states; nothing is decoded.

Demuxers of FFmpeg read as far as a file goes and say nothing of what is missing. Every container says how long its
parts are, though: MP4 and QuickTime in boxes (ISO/IEC 14496-12, 4.2), Matroska and WebM in EBML elements (RFC 8794),
AVI in RIFF chunks, GIF in blocks that end with a trailer (GIF89a, 27).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from rsp_robot.videos.info import UnreadableVideo

BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
EBML = b"\x1a\x45\xdf\xa3"
CUT = "is cut short"
AGAIN = "copy it again or remove it"


def unusable(path: Path, cause: str, fix: str = "remove it or convert it to MP4") -> UnreadableVideo:
    """Build the error for a file: one line whatever the file is called."""
    return UnreadableVideo(" ".join(f"{path} {cause}; {fix}".splitlines()))


def check_whole(path: Path) -> str:
    """Return the name of FFmpeg's demuxer for a file: "mov", "matroska", "avi" or "gif".

    Raises:
        UnreadableVideo: the file is empty, something else, or shorter than its structure says.
        OSError: it is gone, or this user may not read it.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(12)
        if not head:
            raise unusable(path, "is empty (0 bytes)", AGAIN)
        if head[4:8] in BOXES:
            demuxer, cause = "mov", missing_of_boxes(file, size)
        elif head[:4] == EBML:
            demuxer, cause = "matroska", missing_of_elements(file, size)
        elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
            demuxer, cause = "avi", missing_of_chunks(file, size)
        elif head[:6] in (b"GIF87a", b"GIF89a"):
            demuxer, cause = "gif", missing_of_blocks(file)
        else:
            raise unusable(path, "is no video: by its content neither MP4, QuickTime, Matroska, WebM, AVI nor GIF")
    if cause:
        raise unusable(path, f"{CUT}: {cause}", AGAIN)
    return demuxer


def missing_of_boxes(file: BinaryIO, size: int) -> str:
    """What an MP4 or QuickTime file lacks; empty if nothing."""
    position, kinds = 0, set()
    while position < size:
        file.seek(position)
        head = file.read(16)
        if not head.strip(b"\0"):  # padding
            break
        if len(head) < 8:
            return "it ends within the head of a box"
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        elif length == 0:  # up to the end of the file
            length = size - position
        if length < 8:
            if b"moov" in kinds:  # something was appended
                break
            return f"box {kind.decode('ascii', 'replace')!r} states {length} bytes"
        kinds.add(kind)
        position += length
        if position > size:
            return f"{position - size} bytes are missing at the end"
    return "" if b"moov" in kinds else "the index of its frames (moov) is missing"


def missing_of_elements(file: BinaryIO, size: int) -> str:
    """What a Matroska or WebM file lacks; empty if nothing. Elements of unknown size (live streams) are entered."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(12)
        identifier = 9 - head[0].bit_length()  # bytes, by the leading zeros
        if identifier > 4:  # padding, or something was appended
            break
        if len(head) <= identifier or len(head) < identifier + (width := 9 - head[identifier].bit_length()):
            return "it ends within the head of an element"
        if width > 8:
            return f"an element at byte {position} has no size"
        unknown = (1 << 7 * width) - 1
        length = int.from_bytes(head[identifier : identifier + width], "big") & unknown
        position += identifier + width + (0 if length == unknown else length)
        if position > size:
            return f"{position - size} bytes are missing at the end"
    return ""


def missing_of_chunks(file: BinaryIO, size: int) -> str:
    """What an AVI file lacks; empty if nothing. Large files are several RIFF chunks in a row (OpenDML)."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return ""
        position += 8 + struct.unpack("<I", head[4:])[0]
        if position > size:
            return f"{position - size} bytes are missing at the end"
        position += position % 2


def missing_of_blocks(file: BinaryIO) -> str:
    """What a GIF lacks; empty if nothing."""
    file.seek(0)
    content = file.read()
    try:
        position = 13 + colours(content[10])
        while content[position] != 0x3B:  # the trailer
            kind = content[position]
            if kind == 0x21:  # an extension: its label, then sub-blocks
                position += 2
            elif kind == 0x2C:  # a picture: where, which colours, the size of its codes, then sub-blocks
                position += 11 + colours(content[position + 9])
            elif kind != 0:
                return f"byte {position} begins no block"
            while content[position]:
                position += 1 + content[position]
            position += 1
    except IndexError:
        return "the trailer is missing"
    return ""


def colours(flags: int) -> int:
    """Bytes of the table of colours that a GIF's flags announce."""
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0
