from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rsp_robot.errors import UserError
from rsp_robot.files import append_jsonl, atomic_path, read_json, read_jsonl, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_its_folders_are_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "note.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # a sibling: a rename across file systems is not atomic
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert names(target.parent) == ["note.txt"]


def test_an_error_in_the_block_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    target.write_text("old")
    with pytest.raises(KeyError, match="disk"), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise KeyError("disk")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(target):
        pass
    assert target.read_text() == "old"


def test_a_folder_replaces_an_older_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "encoder"
    (target / "inside").mkdir(parents=True)
    (target / "inside" / "stale").write_text("old")
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "fresh").write_text("new")
        assert (target / "inside" / "stale").read_text() == "old"
    assert names(target) == ["fresh"]
    assert names(tmp_path) == ["encoder"]


def test_an_error_in_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "encoder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ValueError), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
        raise ValueError
    assert names(target) == ["old"]
    assert names(tmp_path) == ["encoder"]


def test_the_old_folder_is_deleted_only_when_the_new_one_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting takes time: a kill meanwhile must find a whole folder under the name, never a half-deleted one."""
    target = tmp_path / "encoder"
    target.mkdir()
    (target / "old").write_text("old")
    seen: list[list[str]] = []
    delete = shutil.rmtree

    def watched(path: Path, ignore_errors: bool = False) -> None:
        seen.append(names(target) if target.exists() else [])
        delete(path, ignore_errors=ignore_errors)

    monkeypatch.setattr("rsp_robot.files.shutil.rmtree", watched)
    with atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert seen == [["new"]]
    assert names(tmp_path) == ["encoder"]


def test_two_writers_of_one_path_do_not_share_a_temporary(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    with atomic_path(target) as first, atomic_path(target) as second:
        assert first != second
        first.write_text("outer, finished last")
        second.write_text("inner")
    assert target.read_text() == "outer, finished last"


def test_json_goes_out_and_comes_back(tmp_path: Path) -> None:
    value = {"task": "größe", "rows": [1, 2.5, None, True], "none": {}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "größe" in text
    write_text(tmp_path / "value.json", "é")
    assert (tmp_path / "value.json").read_bytes() == "é".encode()


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"a": object()})
    assert read_json(tmp_path / "value.json") == 1
    assert names(tmp_path) == ["value.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{'a': 1}", b'{"a": 1', b"\xff\xfe{}"], ids=["empty", "quotes", "cut", "utf16"]
)
def test_json_that_is_damaged_is_a_user_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(UserError, match="value.json is not valid JSON .*; write it again") as caught:
        read_json(tmp_path / "value.json")
    assert "\n" not in str(caught.value)


def test_json_that_is_missing_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.json does not exist; check the path"):
        read_json(tmp_path / "absent.json")


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    rows = [{"step": 0, "loss": 0.5}, {"step": 1, "note": "größe\nzwei"}, {}]
    assert read_jsonl(path) == []
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0c", "\r", "\n"])
def test_a_row_whose_text_holds_a_line_break_is_one_row(tmp_path: Path, mark: str) -> None:
    row = {"error": f"before{mark}after"}
    append_jsonl(tmp_path / "rows.jsonl", row)
    append_jsonl(tmp_path / "rows.jsonl", row)
    assert read_jsonl(tmp_path / "rows.jsonl") == [row, row]


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b"{", '{"note": "gr\u00f6'.encode()[:-1]])
def test_a_torn_line_is_dropped_and_the_next_row_stands_alone(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(torn)
    assert read_jsonl(path) == [{"step": 1}]
    append_jsonl(path, {"step": 2})
    append_jsonl(path, {"step": 3})
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_a_whole_row_that_lacks_only_its_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}')
    append_jsonl(path, {"step": 2})
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]


def test_what_was_written_is_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a power cut, which no test can pull: the bytes are in the file when the disk is told to keep them."""
    path = tmp_path / "rows.jsonl"
    synced: list[bytes] = []
    monkeypatch.setattr("rsp_robot.files.os.fsync", lambda number: synced.append(os.pread(number, 100, 0)))
    append_jsonl(path, {"step": 1})
    write_text(tmp_path / "note.txt", "whole")
    assert synced == [b'{"step": 1}\n', b"whole"]


def test_a_row_that_is_no_json_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"step": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        append_jsonl(path, {"step": object()})
    assert path.read_bytes() == before


APPENDER = """
import sys
from rsp_robot.files import append_jsonl
for step in range(10**9):
    append_jsonl(sys.argv[1], {"step": step, "load": "x" * 300_000})
    print(step, flush=True)
"""


def test_kill_minus_nine_while_appending_loses_at_most_the_row_being_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    child = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(4):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    reported = 4 + len(child.stdout.read().split())
    assert child.wait(timeout=10) == -signal.SIGKILL
    steps = [row["step"] for row in read_jsonl(path)]
    assert steps == list(range(len(steps)))
    assert len(steps) in (reported, reported + 1)  # what was reported as written is on the disk


# The system cuts the write at a limit of 1000 bytes and the process kills itself at the refusal: a row half on disk.
TORN = """
import os, resource, signal, sys
from rsp_robot.files import append_jsonl
signal.signal(signal.SIGXFSZ, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
append_jsonl(sys.argv[1], {"step": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
append_jsonl(sys.argv[1], {"step": 1, "load": "x" * 300_000})
"""


def test_a_kill_in_the_middle_of_a_row_leaves_a_file_to_go_on_with(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    child = subprocess.run([sys.executable, "-c", TORN, str(path)], timeout=30, check=False)
    assert child.returncode == -signal.SIGKILL
    assert path.stat().st_size == 1000 and not path.read_bytes().endswith(b"\n")  # the row is torn indeed
    assert read_jsonl(path) == [{"step": 0}]
    append_jsonl(path, {"step": 1})
    assert read_jsonl(path) == [{"step": 0}, {"step": 1}]


KILLED_WRITER = """
import os, signal, sys
from rsp_robot.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_minus_nine_within_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    write_json(target, "old")
    child = subprocess.run([sys.executable, "-c", KILLED_WRITER, os.fspath(target)], timeout=30, check=False)
    assert child.returncode == -signal.SIGKILL
    assert json.loads(target.read_text()) == "old"
    write_json(target, "new")
    assert read_json(target) == "new"
    assert all(name.endswith(".tmp") for name in names(tmp_path) if name != "value.json")
