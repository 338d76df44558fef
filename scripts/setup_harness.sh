#!/usr/bin/env bash
# Makes .venv-harness: lm-evaluation-harness with this package beside it, to run it for real in tests (1.5 GB).
# An environment of its own, because one of its requirements holds python-dateutil back (constraints.txt has a later one).
# Safe to repeat: does nothing when the environment is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
stamp=.venv-harness/installed
wanted="$(cat pyproject.toml constraints.txt scripts/setup_harness.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
[ -x .venv-harness/bin/pip ] || "$python" -m venv .venv-harness

pip() { .venv-harness/bin/python -m pip --disable-pip-version-check -qq "$@"; }
echo "== installing lm-evaluation-harness into .venv-harness (a few minutes the first time)"
pip install "$(grep '^torch==' constraints.txt)"  # first and alone, so that a CPU-only wheel is taken where there is one
pip install -c <(grep -v '^python-dateutil==' constraints.txt) lm_eval==0.4.13 -e '.[harness,serve]' pytest
echo "$wanted" > "$stamp"
echo "== environment ready: .venv-harness"
