#!/usr/bin/env bash
# Makes .venv-harness: lm-evaluation-harness with this package beside it, to run it for real in tests.
# An environment of its own, because one of its requirements holds python-dateutil back (constraints.txt has a later one).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
begin .venv-harness
see_dev
say "installing lm-evaluation-harness into .venv-harness (a minute the first time)"
pip_install -c <(grep -v '^python-dateutil==' constraints.txt) lm_eval==0.4.13 -e '.[harness,serve]' pytest
finish
