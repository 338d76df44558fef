#!/usr/bin/env bash
# Checks the package as its users get it. Builds sdist and wheel, checks their metadata and files, installs the wheel
# into an empty environment, and there, outside of the checkout, runs the command line, a demo of three steps and the
# library. Then asks pip whether each extra can be installed. Usage: scripts/check_package.sh [EXTRA...]
# With EXTRA those extras alone are asked for. PYTHON=/path/to/python takes another Python than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '== %s (after %d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
python="${PYTHON:-python3}"
constraints="$PWD/constraints.txt"
recipe="$PWD/tests/few_steps.toml"
work="$(mktemp -d "${TMPDIR:-/tmp}/check-package.XXXXXX")"
trap 'rm -rf "$work"' EXIT

say "sdist and wheel, with $("$python" --version)"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip --disable-pip-version-check -qq install build "twine>=6.1"
"$work/tools/bin/python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$work/tools/bin/python" -m twine --no-color check --strict "$work"/dist/*
git ls-files >"$work/tracked"
"$python" - "$work" <<'PYTHON'
import sys, tarfile, zipfile
from pathlib import Path

work = Path(sys.argv[1])
tracked = set((work / "tracked").read_text().splitlines())
[wheel], [sdist] = work.glob("dist/*.whl"), work.glob("dist/*.tar.gz")
in_wheel = {f"src/{one.filename}": one.file_size for one in zipfile.ZipFile(wheel).infolist()}
in_wheel = {name: size for name, size in in_wheel.items() if ".dist-info/" not in name}
with tarfile.open(sdist) as archive:
    in_sdist = {one.name.partition("/")[2]: one.size for one in archive if one.isfile()}
for path, files in ((wheel, in_wheel), (sdist, in_sdist)):
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {len(files)} files")
package = {name for name in tracked if name.startswith("src/")}
faults = {
    "missing in the wheel": package - set(in_wheel),
    "in the wheel and not in git": set(in_wheel) - package,
    "missing in the sdist": package - set(in_sdist),
    "in the sdist and not in git": set(in_sdist) - tracked - {"PKG-INFO"},
    "larger than 4 MB": {name for name, size in in_sdist.items() if size > 4e6},
}
for fault, names in faults.items():
    if names:
        print(f"{fault}: {', '.join(sorted(names)[:10])}", file=sys.stderr)
sys.exit(any(faults.values()))
PYTHON

say "the wheel in an empty environment"
"$python" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }
pip install "$(grep '^torch==' constraints.txt)"  # first and alone, as in scripts/setup.sh
wheel="$(echo "$work"/dist/*.whl)"
pip install -c "$constraints" "$wheel"
pip check

mkdir "$work/elsewhere"
cd "$work/elsewhere"
PATH="$work/venv/bin:$PATH"
unset PYTHONPATH
say "outside of the checkout: adaptthink $(adaptthink --version)"
[[ "$wheel" == */adaptthink-"$(adaptthink --version)"-* ]]
adaptthink demo --recipe "$recipe" >demo.log 2>&1 || { cat demo.log; exit 1; }
ls -s runs/demo/report.html runs/demo/model/model.safetensors
python - <<'PYTHON'
import adaptthink as at

problems = at.load_problems("arithmetic", per_level=2)
result = at.evaluate("tiny", problems, modes=["no_think"], max_think_tokens=64, max_no_think_tokens=16)
print(at.__version__, at.load("tiny").template.close, result.modes["no_think"].overall.accuracy)
PYTHON

say "can pip install each extra?"
extras="$*"
[ -n "$extras" ] || extras="$(python -c 'from importlib.metadata import metadata
print(*metadata("adaptthink").get_all("Provides-Extra"))')"
failed=""
for extra in $extras; do
  if pip install --dry-run "$wheel[$extra]" 2>extra.log; then
    say "$extra: yes"
  else
    say "$extra: no"
    tail -3 extra.log
    failed="$failed $extra"
  fi
done
[ -z "$failed" ] || { echo "check_package.sh: pip cannot install$failed" >&2; exit 1; }
say "the package is in order"
