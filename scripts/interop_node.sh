#!/usr/bin/env bash
# Prints a folder of Node.js modules that has the client mqtt.js, made in the cache folder when needed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

requirement="mqtt@5.16.0"
folder="$HOLDFAST_CACHE/node/$requirement"
modules="$folder/node_modules"

if ! NODE_PATH="$modules" node -e "require('mqtt')" 2>/dev/null; then
    rm -rf "$folder"
    mkdir -p "$folder"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder" "$requirement" >&2
fi
echo "$modules"
