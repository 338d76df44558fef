#!/usr/bin/env bash
# Makes .venv with the pinned versions of constraints.txt. Usage: scripts/setup.sh [EXTRA], for example: scripts/setup.sh dev
# Safe to repeat: does nothing when the environment already matches pyproject.toml and constraints.txt.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment=.venv extra="${1:-}"
command -v "$python" >/dev/null || { echo "python3 is not installed: apt-get install python3 python3-venv" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "AdaptThink needs Python 3.11 or newer, found $("$python" --version); set PYTHON=/path/to/python" >&2; exit 2; }

stamp=".venv/installed${extra:+-$extra}"
version="$(grep ^__version__ src/adaptthink/__init__.py)"
wanted="$({ cat pyproject.toml constraints.txt scripts/environment.sh scripts/setup.sh; echo "$version"; } | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

if [ ! -x .venv/bin/pip ]; then
  say "making the environment .venv"
  if ! "$python" -m venv .venv >/dev/null 2>&1; then
    # Debian ships venv without ensurepip; the missing half is a package of its own.
    say "python's venv is incomplete here; installing python3-venv"
    rm -rf .venv
    sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
    { $sudo apt-get update -qq && $sudo apt-get install -y -qq python3-venv >/dev/null; } ||
      { echo "could not install python3-venv; run: apt-get install python3-venv" >&2; exit 2; }
    "$python" -m venv .venv
  fi
fi

say "installing pinned versions (a few minutes the first time)"
pip_install "$torch"  # first and alone, so that a local or CPU-only wheel is taken where there is one
pip_install -c constraints.txt -e ".${extra:+[$extra]}"
echo "$wanted" > "$stamp"
say "environment ready: .venv"
