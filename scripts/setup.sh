#!/usr/bin/env bash
# Make .venv ready: a Python that fits, rsp-robot with everything it needs, and OpenGL for headless rendering.
#
# Every `make` target that needs Python calls this. It returns at once when there is nothing to do, installs again
# when pyproject.toml has changed, and heals what an interrupted call left behind. Name a Python of your own with
# `make PYTHON=/path/to/python3.11 test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH PYTHONHOME  # what another project put there (ROS does) must not leak into this environment

venv=.venv
python=$venv/bin/python
ready=$venv/.ready            # what the environment was made from; written last
unfinished=$venv/.unfinished  # there while pip is at work: such an environment is made anew
rendering=$venv/.rendering    # OpenGL was seen to work
log=build/setup.log
needed_gb=8

say() { printf '%s\n' "setup: $*" >&2; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }
show_log() { tail -n 15 "$log" | sed 's/^/  | /' >&2; }

# apt_install WHY PACKAGE...: install Debian packages when this user may, otherwise say the line that does it.
apt_updated=
apt_install() {
  local why=$1 root=() known=() name
  shift
  if ! command -v apt-get >/dev/null; then
    say "$why; install what your distribution calls: $*"
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
      say "$why; run: sudo apt-get install -y $*"
      return 1
    fi
    root=(sudo -n)
  fi
  say "$why: installing $*"
  if [ -z "$apt_updated" ]; then
    "${root[@]}" dpkg --configure -a >>"$log" 2>&1 || true  # ends what an interrupted call began
    "${root[@]}" apt-get -o DPkg::Lock::Timeout=120 update >>"$log" 2>&1 || true  # the lists there may do
    apt_updated=yes
  fi
  for name in "$@"; do  # newer releases have dropped some of them (libosmesa6 is gone from Debian 13)
    if [ -n "$(apt-cache show "$name" 2>/dev/null)" ]; then known+=("$name"); fi
  done
  if [ ${#known[@]} -gt 0 ] && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
      install -y --no-install-recommends "${known[@]}" >>"$log" 2>&1; then
    return 0
  fi
  show_log
  say "$why and apt-get could not install it (whole log: $log); run: apt-get install -y $*"
  return 1
}

# Print the full path of $1 if it is a Python that rsp-robot runs on, otherwise fail.
fits() {
  "$1" -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 12) or sys.exit(1); print(sys.executable)' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
    fits "$candidate" && return 0
  done
  fail "rsp-robot needs Python 3.11 or 3.12 and found ${PYTHON:-$(python3 -V 2>/dev/null || echo none)};" \
    "install one (apt-get install python3.11 python3.11-venv, or: uv python install 3.12)" \
    "or name it: make PYTHON=/path/to/python3.11"
}

# evdev, which robosuite's keyboard control pulls in, is compiled from source.
can_compile() {
  local headers
  headers=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  printf '#include <Python.h>\n#include <linux/input.h>\n' | cc -I"$headers" -fsyntax-only -x c - >>"$log" 2>&1
}

can_render() {
  "$python" -c 'from rsp_robot.envs.rendering import find_backend; find_backend()' >>"$log" 2>&1
}

# Say every half minute that pip is alive, as long as process $1 is.
tick() {
  local started=$SECONDS
  while sleep 30 >/dev/null 2>&1 && kill -0 "$1" 2>/dev/null; do
    say "still installing, $((SECONDS - started)) s"
  done
}

ticker=
stop() {
  [ -z "$ticker" ] || kill "$ticker" 2>/dev/null || true
  say "interrupted; call it again and it starts over cleanly"
  exit 130
}

make_environment() {
  local base version free_gb
  base=$(find_python) || exit 1
  version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  free_gb=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1048576))
  [ "$free_gb" -ge "$needed_gb" ] ||
    fail "about $needed_gb GB of disk are needed and $free_gb GB are free here; free some and call again"
  if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "this Python cannot make virtual environments" "python$version-venv" || exit 1
  fi
  say "making $venv with Python $version ($base)"
  rm -rf "$venv"
  mkdir "$venv"
  touch "$unfinished"
  "$base" -m venv "$venv" >>"$log" 2>&1 || { show_log; fail "$base -m venv failed; the whole log is $log"; }
}

install_packages() {
  local version status=0
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if ! "$python" -c 'import evdev' 2>/dev/null && ! can_compile "$python"; then
    apt_install "a C compiler or the Python headers are missing" gcc libc6-dev "python$version-dev" || exit 1
    can_compile "$python" || { show_log; fail "the C compiler still does not work; the whole log is $log"; }
  fi
  say "installing rsp-robot and what it needs (about 3 minutes the first time, ${needed_gb} GB)"
  touch "$unfinished"
  rm -f "$ready"
  tick $$ 9<&- &
  ticker=$!
  "$python" -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off \
    --editable '.[all,dev]' >>"$log" 2>&1 || status=$?
  kill "$ticker" 2>/dev/null || true
  ticker=
  if [ "$status" -ne 0 ]; then
    show_log
    fail "pip could not install the packages (whole log: $log); mend the cause named above and call again"
  fi
  printf '%s\n' "$wanted" >"$ready"
  rm -f "$unfinished"
}

# One set-up at a time. The lock goes when its last holder ends, an orphaned pip included.
exec 9<"scripts/setup.sh"
if ! flock -n 9; then
  say "waiting for another set-up in this folder to end"
  flock 9
fi

wanted=$(printf '%s\n' "$PWD"; sha256sum pyproject.toml)
if [ ! -f "$ready" ] || [ "$(cat "$ready")" != "$wanted" ] || [ -e "$unfinished" ] || ! "$python" -c '' 2>/dev/null; then
  mkdir -p build
  : >"$log"
  trap stop INT TERM
  if [ -e "$unfinished" ]; then
    say "the last set-up did not end; starting over"
    make_environment
  elif [ -f "$ready" ] && [ "$(head -n 1 "$ready")" != "$PWD" ]; then
    say "this folder has moved; starting over"
    make_environment
  elif ! fits "$python" >/dev/null || ! "$python" -m pip --version >/dev/null 2>&1; then
    make_environment
  fi
  install_packages
  say "ready: $venv/bin/rsp-robot"
fi

# Not fatal: linting and type checks need no OpenGL, and what renders says the same in its own words.
if [ ! -e "$rendering" ]; then
  mkdir -p build
  if can_render || {
    apt_install "headless OpenGL is missing" libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libosmesa6 && can_render
  }; then
    touch "$rendering"
  else
    say "no working OpenGL yet: collecting, evaluating and their tests will fail; see $venv/bin/rsp-robot doctor"
  fi
fi
