#!/bin/bash
# The development environment in .venv: every artefact from requirements/dev.lock, checked against its hash.
set -euo pipefail
cd "$(dirname "$0")/.."
python=
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "No Python >= 3.11 found (this one is $(python3 --version 2>&1)). Install one, or name it: make venv PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "$python has no venv module: installing Debian's python3-venv" >&2
  if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
  { $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends python3-venv; } >/dev/null
fi
start=$SECONDS
[ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
touch .venv/.ready
echo ".venv: $(.venv/bin/python --version), $(grep -c == requirements/dev.lock) packages, $((SECONDS - start)) s"
