#!/usr/bin/env bash
# Makes .venv-trackers: the trackers with this package beside them, to log to them for real in tests.
# An environment of its own, because they hold pillow, pyarrow and python-dateutil back (constraints.txt has later ones).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
begin .venv-trackers
see_dev
say "installing the trackers into .venv-trackers (a minute the first time)"
pip_install -c <(grep -vE '^(pillow|pyarrow|python-dateutil)==' constraints.txt) \
  wandb==0.31.0 trackio==0.43.0 tensorboard==2.21.0 mlflow==3.17.2 \
  -e '.[wandb,trackio,tensorboard,mlflow,trl]' pytest pytest-timeout
finish
