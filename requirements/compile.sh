#!/bin/sh
# Writes the lock files anew from pyproject.toml: every version pinned, every artefact hashed, for every Python the project
# supports (3.11 for development, 3.13 in the image). Run it after a change of the dependencies: make lock
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
lock() { # OUTPUT, then what to lock
  output=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
    --no-header --no-annotate --no-strip-extras --output-file "requirements/$output" "$@"
}
lock agent.lock pyproject.toml --extra agent
lock operator.lock pyproject.toml --extra operator
lock build.lock requirements/build.in
lock dev.lock pyproject.toml --extra agent --extra operator --group dev requirements/dev.in
