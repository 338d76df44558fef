#!/usr/bin/env bash
# Makes .venv-trackers: the trackers with this package beside them, to log to them for real in tests (2.1 GB).
# An environment of its own, because they hold pillow, pyarrow and python-dateutil back (constraints.txt has later ones).
# Safe to repeat: does nothing when the environment is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
stamp=.venv-trackers/installed
wanted="$(cat pyproject.toml constraints.txt scripts/setup_trackers.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
[ -x .venv-trackers/bin/pip ] || "$python" -m venv .venv-trackers

pip() { .venv-trackers/bin/python -m pip --disable-pip-version-check -qq "$@"; }
echo "== installing the trackers into .venv-trackers (a few minutes the first time)"
pip install "$(grep '^torch==' constraints.txt)"  # first and alone, so that a CPU-only wheel is taken where there is one
pip install -c <(grep -vE '^(pillow|pyarrow|python-dateutil)==' constraints.txt) \
  wandb==0.31.0 trackio==0.43.0 tensorboard==2.21.0 mlflow==3.17.2 \
  -e '.[wandb,trackio,tensorboard,mlflow,trl]' pytest pytest-timeout
echo "$wanted" > "$stamp"
echo "== environment ready: .venv-trackers"
