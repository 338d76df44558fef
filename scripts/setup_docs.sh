#!/usr/bin/env bash
# Makes .venv-docs: what builds the documentation site (make docs). It needs neither torch nor this package.
# zensical 0.0.73 is the last version that is one package; later ones have their theme in another.
# Safe to repeat: does nothing when the environment is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
stamp=.venv-docs/installed
wanted="$(cat constraints.txt scripts/setup_docs.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
[ -x .venv-docs/bin/pip ] || "$python" -m venv .venv-docs

echo "== installing the site's generator into .venv-docs (a minute the first time)"
.venv-docs/bin/python -m pip --disable-pip-version-check -qq install -c constraints.txt \
  zensical==0.0.73 Markdown==3.11.3 pymdown-extensions==13.1.2 Pygments==2.21.0
echo "$wanted" > "$stamp"
echo "== environment ready: .venv-docs"
