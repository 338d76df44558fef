#!/usr/bin/env bash
# Compares the pinned versions of constraints.txt with the database of known vulnerabilities, by pip-audit, in an
# environment of its own. Fails for a version that is vulnerable; where the database cannot be reached, it says so.
# Vulnerabilities that do not matter here are named in IGNORED, each with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
IGNORED=()

python="${PYTHON:-python3}"
[ -x .venv-audit/bin/pip-audit ] || {
  "$python" -m venv .venv-audit
  .venv-audit/bin/python -m pip --disable-pip-version-check -q install "pip-audit>=2.10,<3" || {
    echo "not audited: pip-audit cannot be installed"
    exit 0
  }
}
found="$(mktemp)"
trap 'rm -f "$found" "$found.log"' EXIT
timeout 10m .venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
  --format json --output "$found" "${IGNORED[@]/#/--ignore-vuln=}" >"$found.log" 2>&1 || true
"$python" - "$found" "$found.log" <<'PYTHON'
import json, sys

try:
    rows = json.load(open(sys.argv[1]))["dependencies"]
except (OSError, ValueError, KeyError):
    rows = []
audited = [row for row in rows if "skip_reason" not in row]
if not audited:
    said = [row["skip_reason"] for row in rows] or open(sys.argv[2]).read().strip().splitlines() or ["no answer"]
    print(f"not audited: the database of vulnerabilities cannot be reached ({said[-1][:200]})")
    sys.exit(0)
vulnerable = [(row["name"], row["version"], one) for row in audited for one in row["vulns"]]
for name, version, one in vulnerable:
    print(f"{name} {version}: {one['id']}; fixed in {', '.join(one['fix_versions']) or 'no version yet'}")
print(f"{len(audited)} of {len(rows)} pinned versions audited, {len(vulnerable)} vulnerabilities")
sys.exit(bool(vulnerable))
PYTHON
