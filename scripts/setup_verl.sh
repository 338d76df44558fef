#!/usr/bin/env bash
# Makes .venv-verl: verl with this package beside it, to run verl's real trainer in tests and benchmarks (1.9 GB).
# verl has no CPU build; what lets it run without a GPU is tests/verl_cpu.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' ||
  { echo "verl 0.9.1 needs Python 3.11 or 3.12, found $("$python" --version); set PYTHON=/path/to/python" >&2; exit 2; }
begin .venv-verl
say "installing verl into .venv-verl (several minutes the first time)"
pip_install "$torch"  # first and alone, so that a CPU-only wheel is taken where there is one
# Exact, because verl's V1 trainer and agent loops change with every release. Its extra [cpu] would take an older torch.
# The second line is what verl imports and does not ask for.
verl=("$torch" verl==0.9.1 ray==2.60.0 transformers==5.10.4 tensordict==0.10.0
  TransferQueue==0.1.11 pyzmq==27.3.0 msgspec==0.22.0 cachetools==8.0.1 fastapi==0.165.0 uvicorn==0.54.0)
pip_install "${verl[@]}" -e . pytest pytest-timeout  # all in one, so that nothing of ours moves a version of verl's
finish
