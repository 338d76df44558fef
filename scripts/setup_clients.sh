#!/usr/bin/env bash
# Makes .venv-clients: the clients that people use, with this package beside them, to run them for real in tests.
# An environment of its own, because one of their requirements holds python-dateutil back (constraints.txt has a later one).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
begin .venv-clients
see_dev
say "installing clients into .venv-clients (a minute the first time)"
pip_install -c <(grep -v '^python-dateutil==' constraints.txt) anthropic==2.14.0 ollama==0.6.3 litellm==1.110.2 \
  llm==0.36 openai -e '.[serve]' pytest pytest-timeout
finish
