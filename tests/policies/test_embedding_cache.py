from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.policies import embedding_entry
from rsp_robot.policies.embedding_cache import DEFAULT_LIMIT_GB, EmbeddingCache
from rsp_robot.policies.embedding_entry import Identity
from rsp_robot.policies.file_lock import FileLock, lock, remove_folder, try_lock

ROWS = 96
SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from rsp_robot.policies import embedding_entry
from rsp_robot.policies.embedding_cache import EmbeddingCache
from rsp_robot.policies.embedding_entry import Identity

folder, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
embedding_entry.FLUSH_S = 0.0

def encode(start):
    for first in range(start, 96, 32):
        with open(log, "a") as file:
            file.write(f"{first}\\n")
        rows = np.arange(first * 4, (first + 32) * 4, dtype=np.float32).reshape(32, 4)
        yield rows
        time.sleep(pause)

found = EmbeddingCache(folder).fetch(Identity("e" * 16, "d", "front", (96, 4), "float32", "cpu"), encode)
assert np.array_equal(np.ravel(found), np.arange(96 * 4)), found
"""


def identity(name: str = "e", rows: int = ROWS) -> Identity:
    return Identity(name * 16, "d", "front", (rows, 4), "float32", "cpu")


class Encode:
    """Rows that count up; remembers from where it was asked for them."""

    def __init__(self, rows: int = ROWS, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.starts: list[int] = []
        self.rows, self.fail_at, self.error = rows, fail_at, error

    def __call__(self, start: int) -> Iterator[np.ndarray]:
        self.starts.append(start)
        for first in range(start, self.rows, 32):
            if self.error is not None and first == self.fail_at:
                raise self.error
            last = min(first + 32, self.rows)
            yield np.arange(first * 4, last * 4, dtype=np.float32).reshape(-1, 4)


def expected(rows: int = ROWS) -> np.ndarray:
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingCache:
    monkeypatch.setattr(embedding_entry, "FLUSH_S", 0.0)
    return EmbeddingCache(tmp_path / "cache")


def fill(cache: EmbeddingCache, name: str, rows: int = ROWS) -> None:
    """Make an entry that nobody uses."""
    cache.fetch(identity(name, rows), Encode(rows))


def process(cache: EmbeddingCache, log: Path, pause: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, str(cache.folder), str(log), str(pause)]
    return subprocess.Popen(words, text=True, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_entry_says_in_words_what_it_is(cache: EmbeddingCache) -> None:
    cache.fetch(identity(), Encode(), source="runs/rsp-push", data="push.hdf5")
    (entry,) = cache.entries()
    about = json.loads((entry.folder / "about.json").read_text())
    assert about["what"] == "embeddings of every frame of camera 'front' of push.hdf5 by encoder runs/rsp-push"
    assert (about["frames"], about["frames_done"], about["shape"], about["bytes"]) == (96, 96, [96, 4], 96 * 16)
    assert (entry.encoder, entry.source, entry.data, entry.camera) == ("e" * 16, "runs/rsp-push", "push.hdf5", "front")
    assert abs(entry.made - time.time()) < 60 and entry.made <= entry.last_used
    assert np.array_equal(np.load(entry.folder / "embeddings.npy"), expected())


def test_an_exception_loses_only_what_was_not_on_the_disk(cache: EmbeddingCache) -> None:
    broken = Encode(fail_at=64, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(identity(), broken)
    assert cache.entries()[0].frames_done == 64
    again = Encode()
    assert np.array_equal(cache.fetch(identity(), again), expected())
    assert again.starts == [64]


def test_a_killed_process_is_carried_on(cache: EmbeddingCache, tmp_path: Path) -> None:
    log = tmp_path / "log"
    killed = process(cache, log, pause=60)
    wait_for(lambda: any(entry.frames_done for entry in cache.entries()) or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    assert killed.communicate()[1] == ""
    again = Encode()
    assert np.array_equal(cache.fetch(identity(), again), expected())
    assert again.starts == [32] and log.read_text() == "0\n"


def test_rows_behind_the_last_note_are_written_again(cache: EmbeddingCache) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(identity(), Encode(fail_at=64, error=KeyboardInterrupt()))
    with open(cache.entries()[0].folder / "embeddings.npy", "ab") as file:
        file.write(b"half a block of rows")
    assert np.array_equal(cache.fetch(identity(), Encode()), expected())


def test_a_block_that_is_not_what_was_written_is_not_built_upon(cache: EmbeddingCache) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache.fetch(identity(), Encode(fail_at=64, error=KeyboardInterrupt()))
    flip(cache.entries()[0].folder / "embeddings.npy", 128 + 40 * 16)
    again = Encode()
    assert np.array_equal(cache.fetch(identity(), again), expected())
    assert again.starts == [32]


def flip(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


DAMAGES: list[Callable[[Path], object]] = [
    lambda folder: (folder / "embeddings.npy").write_bytes((folder / "embeddings.npy").read_bytes()[:100]),
    lambda folder: (folder / "embeddings.npy").write_bytes(b""),
    lambda folder: (folder / "embeddings.npy").write_bytes((folder / "embeddings.npy").read_bytes()[:-4]),
    lambda folder: (folder / "embeddings.npy").unlink(),
    lambda folder: flip(folder / "embeddings.npy", 700),
    lambda folder: (folder / "about.json").write_text('{"format": 1'),
    lambda folder: (folder / "about.json").write_text("[1]"),
    lambda folder: (folder / "about.json").unlink(),
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("held", [False, True])
def test_a_damaged_entry_is_made_again_even_while_somebody_has_it(
    cache: EmbeddingCache, damage: Callable[[Path], object], held: bool
) -> None:
    kept = cache.fetch(identity(), Encode())
    if not held:
        del kept
    (entry,) = cache.entries()
    if held:  # a file that is cut short under a memory map kills its reader, whatever the cache does
        (entry.folder / "embeddings.npy").replace(entry.folder / "old")
        (entry.folder / "embeddings.npy").write_bytes((entry.folder / "old").read_bytes())
    damage(entry.folder)
    again = Encode()
    assert np.array_equal(cache.fetch(identity(), again), expected())
    assert again.starts == [0] and len(cache.entries()) == 1
    if held:
        assert np.array_equal(kept, expected())


def test_large_entries_are_checked_in_parts(cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_entry, "CHECKED_BYTES", 48 * 16)
    fill(cache, "e")
    array = cache.entries()[0].folder / "embeddings.npy"
    flip(array, 128 + 40 * 16)  # in the second of three blocks
    unseen = Encode()
    cache.fetch(identity(), unseen)
    flip(array, 128 + 70 * 16)
    seen = Encode()
    cache.fetch(identity(), seen)
    assert (unseen.starts, seen.starts) == ([], [0])


def test_two_processes_share_the_work(cache: EmbeddingCache, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = process(cache, log, pause=0.5)
    wait_for(log.exists)
    others = [process(cache, log, pause=0.0) for _ in range(2)]
    told = [other.communicate(timeout=60)[1] for other in others]
    assert first.communicate(timeout=60)[1] == ""
    assert [other.returncode for other in (first, *others)] == [0, 0, 0]
    assert log.read_text().split() == ["0", "32", "64"]
    assert all("another process is encoding the same pictures; waiting for it\n" in line or not line for line in told)


def test_a_process_that_dies_hands_over_to_the_one_that_waits(cache: EmbeddingCache, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = process(cache, log, pause=60)
    wait_for(lambda: any(entry.frames_done for entry in cache.entries()))
    second = process(cache, log, pause=0.0)
    assert second.stderr is not None and "waiting for it" in second.stderr.readline()
    first.kill()
    first.communicate()
    assert second.wait(timeout=60) == 0
    second.stderr.close()
    assert log.read_text().split() == ["0", "32", "64"]


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    for name in "abc":
        fill(cache, name)
    fill(cache, "a")  # used again
    size = cache.entries()[0].bytes
    small = EmbeddingCache(tmp_path, limit_bytes=3 * size + 100)
    fill(small, "d")
    assert [entry.encoder[0] for entry in small.entries()] == ["c", "a", "d"]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("shared", [False, True])
def test_an_entry_in_use_stays_until_its_last_view_is_gone(tmp_path: Path, shared: bool) -> None:
    cache = EmbeddingCache(tmp_path)
    array: np.ndarray | None = cache.fetch(identity("a"), Encode())
    assert array is not None
    view: np.ndarray | None = torch.from_numpy(array[3:5])[:, 1:].T.numpy() if shared else np.asarray(array)[3:5, 1:].T
    array = None
    small = EmbeddingCache(tmp_path, limit_bytes=ROWS * 16)
    fill(small, "b")
    fill(small, "c")
    assert [entry.encoder[0] for entry in cache.entries()] == ["a", "c"]
    cleared = cache.clear()
    assert (cleared.entries, cleared.in_use) == (1, 1)
    assert view is not None and view[0, 0] == 13
    view = None
    assert cache.clear().entries == 1 and cache.entries() == []


def test_what_is_larger_than_the_limit_is_made_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = EmbeddingCache(tmp_path, limit_bytes=1000)
    fill(cache, "a", rows=32)
    assert capsys.readouterr().err == ""
    assert np.array_equal(cache.fetch(identity("b"), Encode()), expected())
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "take 1.54e-06 GB and the cache may hold 1e-06 GB" in told and "$RSP_ROBOT_CACHE_GB" in told
    assert [entry.encoder[0] for entry in cache.entries()] == ["b"]


def test_what_is_refused_leaves_nothing(cache: EmbeddingCache) -> None:
    with pytest.raises(UserError, match="no good"):
        cache.fetch(identity(), Encode(fail_at=64, error=UserError("no good")))
    assert cache.entries() == []


def test_too_few_rows_are_a_bug(cache: EmbeddingCache) -> None:
    with pytest.raises(RuntimeError, match="64 rows were encoded, not 96"):
        cache.fetch(identity(), Encode(rows=64))


def test_clearing_takes_unreadable_entries_and_leftovers_too(cache: EmbeddingCache) -> None:
    fill(cache, "a")
    fill(cache, "b")
    (cache.entries()[0].folder / "about.json").write_text("?")
    (cache.entries()[0].folder / "lock").unlink()
    (cache.folder / ".x.1234.removed").mkdir()
    assert sorted(entry.encoder[:1] for entry in cache.entries()) == ["", "b"]
    cleared = cache.clear()
    assert cleared.entries == 2 and cleared.bytes > 2 * ROWS * 16
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "none")
    assert cache.entries() == [] and cache.clear() == (0, 0, 0)
    assert not cache.folder.exists()


def test_the_limit_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RSP_ROBOT_CACHE_GB", raising=False)
    assert EmbeddingCache(tmp_path).limit_bytes == DEFAULT_LIMIT_GB * 1e9
    monkeypatch.setenv("RSP_ROBOT_CACHE_GB", "0.5")
    monkeypatch.setenv("RSP_ROBOT_CACHE", str(tmp_path))
    assert EmbeddingCache.default().limit_bytes == 5e8
    assert EmbeddingCache.default().folder == tmp_path / "embeddings"
    for wrong in ("many", "-1", "inf", "nan"):
        monkeypatch.setenv("RSP_ROBOT_CACHE_GB", wrong)
        with pytest.raises(UserError, match=f"RSP_ROBOT_CACHE_GB is '{wrong}'; give a number of gigabytes, such as 20"):
            EmbeddingCache(tmp_path)


def test_locks(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lock"
    with lock(path, exclusive=False), lock(path, exclusive=False) as second:
        assert try_lock(path) is None
        path.unlink()
        assert not second.valid
        with lock(path, exclusive=True) as third:
            assert third.valid and try_lock(path) is None
            third.share()
            with lock(path, exclusive=False):
                pass
        held = try_lock(path)
        assert held is not None and held.valid
        held.__exit__()
    assert try_lock(tmp_path / "b" / "lock") is None


def test_a_lock_on_a_folder_that_was_removed_is_taken_on_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a" / "lock"
    with ThreadPoolExecutor(1) as pool:
        with lock(path, exclusive=True):
            later = pool.submit(lock, path, True, "waiting")
            told = ""
            while not told:
                told = capsys.readouterr().err
            remove_folder(path.parent)
        held: FileLock = later.result(timeout=30)
    with held:
        assert told == "waiting\n" and held.valid and path.exists()
