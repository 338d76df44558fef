#!/usr/bin/env bash
# Makes .venv-docs: what builds the documentation site (make docs). It needs neither torch nor this package.
# zensical 0.0.73 is the last version that is one package; later ones have their theme in another.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
begin .venv-docs
say "installing the site's generator into .venv-docs (a minute the first time)"
pip_install -c constraints.txt zensical==0.0.73 Markdown==3.11.3 pymdown-extensions==13.1.2 Pygments==2.21.0
finish
