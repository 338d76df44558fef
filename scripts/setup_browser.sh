#!/usr/bin/env bash
# Brings a Chromium and what drives it into .venv, to test the reports in a real browser and to photograph them.
# Takes the browser that is there; else Debian's; else, where there is no such package, playwright's own.
# Safe to repeat: does nothing when all is there. Fails if the browser cannot take a picture.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
scripts/setup.sh dev
environment=.venv

stamp=.venv/installed-browser
wanted="$(cat pyproject.toml constraints.txt scripts/environment.sh scripts/setup_browser.sh | sha256sum)"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  say "installing playwright"
  pip_install -c constraints.txt -e ".[browser]"
fi

have() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }
if ! have; then
  sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"
  if command -v apt-get >/dev/null && $sudo apt-get update -qq && apt-cache show chromium >/dev/null 2>&1; then
    say "installing Debian's chromium"
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core \
      >/dev/null || true  # the next step says what is wrong, or brings another
  fi
  if ! have; then
    say "no chromium package here; downloading playwright's own"
    .venv/bin/python -m playwright install --with-deps chromium
  fi
fi

proof="$(mktemp -d)"
trap 'rm -rf "$proof"' EXIT
echo '<!doctype html><title>ready</title><p>ready' > "$proof/page.html"
.venv/bin/python scripts/screenshot.py "$proof/page.html" "$proof/page.png" 200 100 ||
  { echo "a browser was installed but does not start; run: apt-get install chromium" >&2; exit 2; }
echo "$wanted" > "$stamp"
say "browser ready"
