#!/usr/bin/env bash
# Makes .venv-gym: reasoning-gym with this package beside it, to test its problems and scorers for real (1.7 GB).
# An environment of its own, because reasoning-gym needs pycosat, which has no wheel: it is compiled, with gcc and
# Python's headers. On Debian they are installed if they are missing.
# Safe to repeat: does nothing when the environment is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '== %s\n' "$*"; }
python="${PYTHON:-python3}"
stamp=.venv-gym/installed
wanted="$(cat pyproject.toml constraints.txt scripts/setup_gym.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

can_compile() {
  command -v cc >/dev/null && [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]
}
if ! can_compile; then
  say "installing a C compiler and Python's headers"
  sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
  { command -v apt-get >/dev/null && $sudo apt-get update -qq &&
    $sudo apt-get install -y -qq --no-install-recommends gcc libc6-dev python3-dev python3-venv >/dev/null; } ||
    { echo "could not install a C compiler; run: apt-get install gcc python3-dev python3-venv" >&2; exit 2; }
  can_compile || { echo "there are no headers for $("$python" --version); install them, or set PYTHON" >&2; exit 2; }
fi

[ -x .venv-gym/bin/pip ] || "$python" -m venv .venv-gym
pip() { .venv-gym/bin/python -m pip --disable-pip-version-check -qq "$@"; }
say "installing reasoning-gym into .venv-gym (a few minutes the first time)"
pip install "$(grep '^torch==' constraints.txt)"  # first and alone, so that a CPU-only wheel is taken where there is one
pip install -c constraints.txt -e '.[gym]' pytest
echo "$wanted" > "$stamp"
say "environment ready: .venv-gym"
