#!/usr/bin/env bash
# On a TPU VM, in the copied checkout: the locked packages into .venv. uv brings the Python that the runtime is too
# old for.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m pip install --quiet --user uv
test -x .venv/bin/python || python3 -m uv venv --quiet --python 3.11 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt
python3 -m uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
