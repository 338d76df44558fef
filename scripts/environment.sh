# Sourced by the setup scripts. `begin` makes an environment of its own for what cannot be in .venv.
# Safe to repeat: a script ends at once when its environment is already there.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
torch="$(grep '^torch==' constraints.txt)"
say() { printf '== %s\n' "$*"; }

# begin ENVIRONMENT: make it, empty, and let pip_install install into it.
begin() {
  environment="$1"
  wanted="$(cat pyproject.toml constraints.txt scripts/environment.sh "scripts/$(basename "$0")" | sha256sum)"
  if [ "$(cat "$environment/installed" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
  [ -x "$environment/bin/pip" ] || "$python" -m venv "$environment"
}

# see_dev: let the environment see the packages of .venv, so that only what is missing or differs is installed.
see_dev() {
  scripts/setup.sh dev
  local packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  echo "import site; site.addsitedir('$(.venv/bin/python -c "$packages")')" \
    > "$("$environment/bin/python" -c "$packages")/on_dev.pth"
}

# pip_install [OPTION...] REQUIREMENT...: into the environment. Python compiles what it imports and keeps that; to compile
# all that is installed takes longer than the rest. Where Python may not keep it, pip has to compile.
pip_install() {
  local compile="--no-compile"
  [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || compile="--compile"
  "$environment/bin/python" -m pip --disable-pip-version-check -qq install "$compile" "$@"
}

# finish: what is installed need not be installed again.
finish() {
  echo "$wanted" > "$environment/installed"
  say "environment ready: $environment"
}
