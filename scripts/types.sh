#!/usr/bin/env bash
# Type-check the one package that the folders install as. mypy cannot follow setuptools' editable mapping, so this
# lays the folders out as `rsp_robot/` by links and names files as they stand in the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${BIN:-.venv/bin}
tree=build/types

rm -rf "$tree"
mkdir -p "$tree/rsp_robot"
for entry in rsp_robot/*; do
  [ "$(basename "$entry")" = __pycache__ ] || ln -s "$PWD/$entry" "$tree/rsp_robot/"
done
for stage in envs pretrain policies experiments; do
  ln -s "$PWD/$stage" "$tree/rsp_robot/$stage"
done
MYPYPATH=$tree "$bin/mypy" -p rsp_robot "$@" | sed -E "s#^$tree/rsp_robot/(envs|pretrain|policies|experiments)/#\1/#; s#^$tree/##"
