#!/usr/bin/env bash
# Proves the README's promise: on a Debian with nothing but python3, make, git and ca-certificates, `make demo` and
# `make test` work, and no extra but `gym` needs a compiler. Usage, as root on Debian: scripts/bare_root.sh
#
# Makes such a Debian in a temporary folder with debootstrap (installed if it is missing), puts a clone of HEAD into it,
# and there runs `make demo` with three steps, `make test` with a few test files, an install check of every extra, and
# scripts/setup_gym.sh with its tests: some six minutes of two cores, and 6 GB of disk. The folder goes at the end,
# however that comes.
#
# Inside, apt has the mirror and pip the configuration, the cache and the local folders of the machine outside. SUITE
# (default bookworm) and MIRROR override what apt says; TESTS names other test files.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '== %s (after %d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
fail() { echo "bare_root.sh: $*" >&2; exit 2; }
cannot() { echo "bare_root.sh: $*" >&2; exit 77; }  # as a skipped test: this machine cannot prove or disprove it

[ "$(uname -s)" = Linux ] || cannot "needs Linux; this is $(uname -s)"
[ "$(id -u)" = 0 ] || cannot "needs root, for chroot and mount; run: sudo scripts/bare_root.sh"
command -v apt-get >/dev/null || cannot "needs Debian or one of its kin: there is no apt-get"

# Mounts in a namespace of our own: whatever ends this script, none of them stays, and nothing is deleted through one.
if [ "${1:-}" != --in-namespace ]; then
  unshare --mount true 2>/dev/null || cannot "may not mount here (a container without the right to?); run it elsewhere"
  exec unshare --mount --propagation private "$PWD/scripts/bare_root.sh" --in-namespace
fi

if ! command -v debootstrap >/dev/null; then
  say "installing debootstrap"
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; } ||
    fail "could not install debootstrap; run: apt-get install debootstrap"
fi

root="$(mktemp -d "${TMPDIR:-/tmp}/bare-root.XXXXXX")"
chmod 755 "$root"  # apt inside downloads as a user of its own
inside() {  # the processes that run in it
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/root" 2>/dev/null)" != "$root" ] || echo "${process#/proc/}"
  done
}
leave() {
  status=$?
  rm -f "$root.log"
  while left="$(inside)" && [ -n "$left" ]; do  # what was interrupted may still write
    kill -KILL $left 2>/dev/null || true
    sleep 0.2
  done
  awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/self/mounts | sort -r |
    while read -r place; do umount "$place" || umount --lazy "$place"; done
  if awk -v root="$root/" 'index($2, root) == 1 { found = 1 } END { exit !found }' /proc/self/mounts; then
    echo "bare_root.sh: something is still mounted below $root, so it is not deleted" >&2
  else
    rm -rf --one-file-system "$root"
  fi
  exit "$status"
}
trap leave EXIT
trap 'exit 130' INT TERM HUP

# ---- a Debian, with the mirror and the proxy of the apt outside -------------------------------------------------------

suite="${SUITE:-bookworm}"
mirror="${MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)' 'Identifier: Packages' |
  awk -v suite="$suite" '$1 == "Debian" && $2 == "main" { if (!any) any = $4; if ($3 == suite && !same) same = $4 }
                         END { print same ? same : any }')}"
[ -n "$mirror" ] || fail "apt knows no Debian mirror; run apt-get update, or set MIRROR"
settings="$(apt-config dump --no-empty --format '%F "%v";%n' Acquire |
  grep -E '^Acquire::(.*::)?(Proxy|CaInfo|CaPath|Verify-(Peer|Host)|Check-(Date|Valid-Until)|Retries|Timeout) ' || true)"
eval "$(apt-config shell proxy Acquire::http::Proxy)"
[ -z "${proxy:-}" ] || export http_proxy="${http_proxy:-$proxy}"

say "making a bare Debian ($suite)"
debootstrap --variant=minbase --include=python3,make,git,ca-certificates "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" "$root/debootstrap/debootstrap.log" >&2 || true; fail "debootstrap failed"; }
printf '%s\n' "$settings" > "$root/etc/apt/apt.conf.d/90outside"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$(uname -n)" > "$root/etc/hosts"  # which Debian's installer writes
[ ! -d /etc/apt/auth.conf.d ] || cp -r /etc/apt/auth.conf.d "$root/etc/apt/"
if [ -d /usr/local/share/ca-certificates ]; then
  cp -r /usr/local/share/ca-certificates "$root/usr/local/share/"
  chroot "$root" update-ca-certificates >/dev/null 2>&1
fi
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t devpts devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"  # below it the host's own /dev/shm is not seen
mount --bind -o ro /sys "$root/sys"

# ---- pip as outside ---------------------------------------------------------------------------------------------------

# give PATH: the same file or folder at the same place inside, a folder as a mount that cannot be written to.
give() {
  if [ -d "$1" ]; then
    mkdir -p "$root$1"
    mountpoint -q "$root$1" || { mount --bind "$1" "$root$1" && mount -o remount,bind,ro "$root$1"; }
  elif [ -f "$1" ]; then
    mkdir -p "$root$(dirname "$1")"
    cp "$1" "$root$1"
  fi
}
export HOME="${HOME:-/root}"
outside=""
for python in .venv/bin/python python3; do
  if "$python" -m pip --version >/dev/null 2>&1; then outside="$python"; break; fi
done
if [ -n "$outside" ]; then
  # Its files for all users and for this one; those of one environment have no place in another.
  "$outside" -m pip config debug | sed -nE 's/^  (.*), exists: True$/\1/p' | while read -r file; do
    case "$file" in "$("$outside" -c 'import sys; print(sys.prefix)')"/*) ;; *) give "$file" ;; esac
  done
  # Files and folders that its settings name. The pages of an index may point to files beside it, so its parent is given.
  "$outside" -m pip config list | "$outside" -c '
import ast, sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

for line in sys.stdin:
    name, _, value = line.strip().partition("=")
    for word in str(ast.literal_eval(value)).split():
        path = Path(unquote(urlsplit(word).path) if word.startswith("file://") else word)
        if path.is_absolute() and path.exists() and "cache-dir" not in name:
            print(path.parent if "index-url" in name and path.parent != Path("/") else path)
' | sort -u | while read -r path; do give "$path"; done
  cache="$("$outside" -m pip cache dir 2>/dev/null || true)"
  if [ -n "$cache" ]; then
    mkdir -p "$cache" "$root$cache"
    mount --bind "$cache" "$root$cache"
  fi
fi
environment=("HOME=$HOME" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" LANG=C.UTF-8)
for name in SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE; do
  [ -z "${!name:-}" ] || { [ ! -f "${!name}" ] || give "${!name}"; environment+=("$name=${!name}"); }
done
for name in $(compgen -e | grep -E '^PIP_|^(https?|no|all)_proxy$|^(HTTPS?|NO|ALL)_PROXY$'); do
  environment+=("$name=${!name}")
done

# ---- the project in it ------------------------------------------------------------------------------------------------

git -c safe.directory='*' clone -q --no-hardlinks . "$root/adaptthink"
git -c safe.directory='*' -C "$root/adaptthink" checkout -q --detach "$(git -c safe.directory='*' rev-parse HEAD)"
in_root() { chroot "$root" /usr/bin/env -i "${environment[@]}" bash -euo pipefail -c "cd /adaptthink; $1"; }

in_root '! command -v cc && ! command -v gcc && ! ls /usr/include/python3*/Python.h 2>/dev/null' ||
  fail "the bare root is not bare: it has a compiler or Python's headers"
say "make demo, three steps"
in_root 'make demo RECIPE=tests/few_steps.toml && test -s runs/demo/report.html'
say "make test, a few files"
tests="${TESTS:-tests/test_objective.py tests/test_modes.py tests/test_arithmetic.py tests/test_gym.py}"
in_root "make test TESTS='$tests -rs'"

say "every extra: are there wheels for all that it needs?"
in_root '
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }
alone="vllm verl gym harness"  # each by itself; the others in one, which is quicker
others="$(.venv/bin/python -c "
import tomllib
extras = tomllib.load(open(\"pyproject.toml\", \"rb\"))[\"project\"][\"optional-dependencies\"].keys()
alone = set(\"$alone\".split())
assert alone <= extras, alone - extras
print(*sorted(extras - alone), sep=\",\")")"
for extra in $alone "$others"; do
  if pip install --dry-run --only-binary :all: ".[$extra]" 2>/dev/null; then
    echo "$extra: wheels for everything"
  elif [ "$extra" = gym ]; then
    echo "$extra: not for everything; scripts/setup_gym.sh brings a compiler"
  else
    pip install --no-compile ".[$extra]"
    echo "$extra: not for everything, but what has none needs no compiler"
  fi
done'

say "reasoning-gym, with the compiler that its script brings"
in_root 'scripts/setup_gym.sh && .venv-gym/bin/python -c "import reasoning_gym" &&
  .venv-gym/bin/python -m pytest -p no:cacheprovider tests/test_gym.py'
say "the bare root did all of it"
