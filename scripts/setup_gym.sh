#!/usr/bin/env bash
# Makes .venv-gym: reasoning-gym with this package beside it, to test its problems and scorers for real.
# An environment of its own, because reasoning-gym needs pycosat, which has no wheel: it is compiled, with gcc and
# Python's headers. On Debian they are installed if they are missing.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
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

begin .venv-gym  # after python3-venv has come
see_dev
say "installing reasoning-gym into .venv-gym (a minute the first time)"
pip_install -c constraints.txt -e '.[gym]' pytest
finish
