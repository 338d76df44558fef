#!/usr/bin/env bash
# The check of a GPU: tests, demo and benchmarks in at most nine minutes, without network. The result files go to
# --output, else $OUT, else benchmarks/results. Needs a Python with PyTorch for the GPU and transformers (PYTHON, else
# .venv, else python3); what else it lacks is taken from .wheels-gpu, which scripts/gpu_wheels.sh fills elsewhere.
# Usage: scripts/gpu_check.sh [--device cpu --quick] [--output FOLDER] [--parts tests demo ...]
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
output="${OUT:-benchmarks/results}"
arguments=("$@")
for index in "${!arguments[@]}"; do
  case "${arguments[index]}" in
    --output) output="${arguments[index + 1]:?--output needs a folder}" ;;
    --output=*) output="${arguments[index]#--output=}" ;;
  esac
done
mkdir -p "$output"
export BENCHMARK_RESULTS="$(cd "$output" && pwd)" PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_DISABLE_TELEMETRY=1

if ! "$python" -c "import adaptthink.api, cyclopts, datasets, trl, peft, pytest" 2>/dev/null; then
  compgen -G ".wheels-gpu/*.whl" >/dev/null ||
    echo "some packages are missing and there is no .wheels-gpu: run scripts/gpu_wheels.sh where there is a network" >&2
  site="$(mktemp -d)"
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --disable-pip-version-check -q --no-index --no-deps --no-compile --target "$site" \
    .wheels-gpu/*.whl || true  # the check says what is missing
  PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" benchmarks/gpu_check.py "$@"
