"""scripts/setup.sh decides rightly what there is to do. Python and pip are played by a script that takes no time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAKE_PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install "*) exit "${PIP_STATUS:-0}" ;;
  *"sys.executable"*) [ -z "${WRONG_PYTHON:-}" ] && printf '%s\\n' "$0" ;;
  *"version_info"*) echo 3.11 ;;
  *"find_backend"*) exit "${RENDER_STATUS:-0}" ;;
esac
"""
FAKE_DF = "#!/usr/bin/env bash\nprintf 'head\\nx 1 1 %s 1 /\\n' \"${FREE_KB:-99999999}\"\n"


class Tree:
    """A copy of what setup.sh looks at, with a Python that only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts" / "setup.sh")
        shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
        for name, text in (("python3.11", FAKE_PYTHON), ("df", FAKE_DF)):
            file = folder / "bin" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        self.calls = folder / "calls"

    def setup(self, **variables: str) -> tuple[int, str, list[str]]:
        """Run it; return the exit status, what it said, and how Python was called for making and installing."""
        self.calls.write_text("")
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        done = subprocess.run(
            [self.folder / "scripts" / "setup.sh"],
            env={**kept, "PATH": path, "CALLS": str(self.calls), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == ""
        calls = [" ".join(line.split()[1:3]) for line in self.calls.read_text().splitlines() if line.startswith("-m")]
        return done.returncode, done.stderr, [call for call in calls if call in ("venv .venv", "pip install")]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "my tree")


def test_first_call_makes_everything_and_the_second_nothing(tree: Tree) -> None:
    status, said, calls = tree.setup()
    assert (status, calls) == (0, ["venv .venv", "pip install"])
    assert "about 3 minutes" in said
    assert tree.setup() == (0, "", [])


def test_only_a_changed_pyproject_installs_again(tree: Tree) -> None:
    tree.setup()
    (tree.folder / "pyproject.toml").touch()
    assert tree.setup() == (0, "", [])
    (tree.folder / "pyproject.toml").write_text("changed")
    assert tree.setup()[2] == ["pip install"]


def test_an_unfinished_environment_is_made_anew(tree: Tree) -> None:
    tree.setup()
    (tree.folder / ".venv" / "half").touch()
    (tree.folder / ".venv" / ".unfinished").touch()
    status, said, calls = tree.setup()
    assert (status, calls) == (0, ["venv .venv", "pip install"])
    assert "starting over" in said
    assert not (tree.folder / ".venv" / "half").exists()
    assert tree.setup() == (0, "", [])


def test_a_moved_tree_is_made_anew(tree: Tree, tmp_path: Path) -> None:
    tree.setup()
    tree.folder.rename(tmp_path / "elsewhere")
    tree.folder, tree.calls = tmp_path / "elsewhere", tmp_path / "elsewhere" / "calls"
    status, said, calls = tree.setup()
    assert (status, calls) == (0, ["venv .venv", "pip install"])
    assert "has moved" in said


def test_a_broken_environment_is_made_anew(tree: Tree) -> None:
    tree.setup()
    (tree.folder / ".venv" / "bin" / "python").unlink()
    assert tree.setup()[2] == ["venv .venv", "pip install"]


def test_a_failing_pip_is_told_and_healed(tree: Tree) -> None:
    status, said, _ = tree.setup(PIP_STATUS="1")
    assert status == 1
    assert said.splitlines()[-1].startswith("error: pip could not install the packages")
    status, said, calls = tree.setup()
    assert (status, calls) == (0, ["venv .venv", "pip install"])


def test_no_python_that_fits_names_the_fix(tree: Tree) -> None:
    status, said, calls = tree.setup(PYTHON="python3.11", WRONG_PYTHON="1")
    assert (status, calls) == (1, [])
    assert said.startswith("error: rsp-robot needs Python 3.11 or 3.12 and found python3.11;")
    assert "apt-get install python3.11" in said
    assert len(said.splitlines()) == 1


def test_a_full_disk_is_told_before_anything_is_made(tree: Tree) -> None:
    status, said, calls = tree.setup(FREE_KB="2097152")
    assert (status, calls) == (1, [])
    assert said == "error: about 8 GB of disk are needed and 2 GB are free here; free some and call again\n"


def test_missing_opengl_is_told_and_not_fatal(tree: Tree) -> None:
    for name in ("apt-get", "apt-cache", "dpkg", "sudo"):  # as for a user without rights
        (tree.folder / "bin" / name).write_text("#!/usr/bin/env bash\nexit 1\n")
        (tree.folder / "bin" / name).chmod(0o755)
    for _ in range(2):
        status, said, _ = tree.setup(RENDER_STATUS="1")
        assert status == 0
        assert "libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libosmesa6" in said
        assert "no working OpenGL yet" in said
    assert tree.setup() == (0, "", [])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_every_target() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    targets = [line.split()[1] for line in lines if line.startswith(".PHONY")]
    shown = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    assert "quickstart" in targets
    assert [target for target in targets if f"1m{target} " not in shown] == []
