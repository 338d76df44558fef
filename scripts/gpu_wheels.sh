#!/usr/bin/env bash
# Downloads into .wheels-gpu what scripts/gpu_check.sh needs on a machine without network, for Python 3.12 on Linux:
# what a PyTorch machine usually lacks, at the versions of constraints.txt. Not torch, transformers, numpy, scipy,
# pyarrow, rich, jinja2 and what comes with them, such as sympy, which the machine must have. At most 50 MB.
# Usage: scripts/gpu_wheels.sh [PYTHON_VERSION]
set -euo pipefail
cd "$(dirname "$0")/.."
version="${1:-3.12}"
folder=.wheels-gpu
limit_mb=50
packages='pydantic|pydantic_core|annotated-types|typing-inspection|typing_extensions' # settings
packages+='|cyclopts|docstring_parser|rich-rst|rich|markdown-it-py|mdurl|Pygments|attrs' # command line
packages+='|math-verify|latex2sympy2_extended|antlr4-python3-runtime' # grading
packages+='|httpx2|httpcore2|h11|anyio|idna|truststore|tenacity|filelock|psutil' # engines, locks
packages+='|datasets|dill|multiprocess|xxhash|fsspec|trl|peft|accelerate' # problem sets, TRL, LoRA
packages+='|matplotlib|contourpy|cycler|fonttools|kiwisolver|pillow|pyparsing' # reports
packages+='|pandas|python-dateutil|six|tzdata' # datasets
packages+='|pytest|pluggy|iniconfig|packaging'

python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
rm -rf "$folder"
# --no-deps: each package stands above, so that nothing large comes along.
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
mapfile -t pinned < <(grep -E "^($packages)==" constraints.txt)
"$python" -m pip download --disable-pip-version-check -q -d "$folder" --no-deps --only-binary=:all: \
  --implementation cp --python-version "$version" "${platforms[@]}" "${pinned[@]}"
size="$(du -sm "$folder" | cut -f1)"
echo "$folder: $(find "$folder" -name '*.whl' | wc -l) wheels for Python $version, $size MB"
[ "$size" -le "$limit_mb" ] || { echo "more than $limit_mb MB: take something out of the list" >&2; exit 1; }
