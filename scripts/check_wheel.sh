#!/usr/bin/env bash
# Build the wheel and audit with it in an empty folder with the network off.
# Usage: scripts/check_wheel.sh PYTHON   (an environment with the dependencies and the dev extra)
#
# The wheel goes into an environment of its own that borrows everything else from PYTHON's, so only
# our code is new and torch is not installed twice.
set -euo pipefail

python=$(realpath --no-symlinks "$1")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
"$python" -m build --wheel --no-isolation --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
    { cat "$work/build.log"; exit 1; }
"$python" -m venv --without-pip "$work/venv"
"$python" -m pip --python "$work/venv/bin/python" install --quiet --no-deps --no-index "$work"/dist/*.whl
"$python" -c "$purelib" >"$("$work/venv/bin/python" -c "$purelib")/borrowed.pth"

mkdir "$work/empty" "$work/blocked"
cd "$work/empty"
if unshare --net true 2>/dev/null; then
    offline=(unshare --net)
elif unshare --map-root-user --net true 2>/dev/null; then
    offline=(unshare --map-root-user --net)
else
    echo "check_wheel: no network namespace here, so every connection is made to fail instead"
    cat >"$work/blocked/sitecustomize.py" <<'PY'
import socket


def refuse(*_, **__):
    raise OSError("the network is off in this check")


socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
PY
    offline=(env PYTHONPATH="$work/blocked")
fi

echo "check_wheel: auditing in an empty folder with $(basename "$work"/dist/*.whl), network off"
"${offline[@]}" "$work/venv/bin/arrcoc-verify" audit --json audit.json
"${offline[@]}" "$work/venv/bin/python" - "$work" <<'PY'
import json
import sys
from pathlib import Path

import arrcoc_verify

work, audit = Path(sys.argv[1]), json.loads(Path("audit.json").read_text())
if work not in Path(arrcoc_verify.__file__).parents:
    sys.exit(f"check_wheel: audited with {arrcoc_verify.__file__}, not with the wheel")
if not audit["claims"] or not Path(audit["report"]).is_file():
    sys.exit("check_wheel: the audit judged no claim or left no page")
print(f"check_wheel: {len(audit['claims'])} claims judged, page {audit['report']}")
PY
