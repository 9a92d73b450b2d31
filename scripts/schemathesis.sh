#!/usr/bin/env bash
# Prints the path of schemathesis, which tries the admin API against its OpenAPI file; made in the cache
# folder when needed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

requirement="schemathesis==4.32.5"
folder="$HOLDFAST_CACHE/python/$requirement"
program="$folder/bin/schemathesis"

if ! "$program" --version >/dev/null 2>&1; then
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$requirement" >&2
fi
echo "$program"
