#!/usr/bin/env bash
# Makes .venv-clients: the clients that people use, with this package beside them, to run them for real in tests (1.5 GB).
# An environment of its own, because one of their requirements holds python-dateutil back (constraints.txt has a later one).
# Safe to repeat: does nothing when the environment is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
stamp=.venv-clients/installed
wanted="$(cat pyproject.toml constraints.txt scripts/setup_clients.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
[ -x .venv-clients/bin/pip ] || "$python" -m venv .venv-clients

pip() { .venv-clients/bin/python -m pip --disable-pip-version-check -qq "$@"; }
echo "== installing clients into .venv-clients (a few minutes the first time)"
pip install "$(grep '^torch==' constraints.txt)"  # first and alone, so that a CPU-only wheel is taken where there is one
pip install -c <(grep -v '^python-dateutil==' constraints.txt) anthropic==2.14.0 ollama==0.6.3 litellm==1.110.2 \
  llm==0.36 openai -e '.[serve]' pytest pytest-timeout
echo "$wanted" > "$stamp"
echo "== environment ready: .venv-clients"
