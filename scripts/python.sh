#!/usr/bin/env bash
# Prints the path of a Python that has the paho MQTT client, made in the cache folder when needed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

requirement="paho-mqtt==2.1.0"
folder="$HOLDFAST_CACHE/python/$requirement"
python="$folder/bin/python3"

if ! "$python" -c 'import paho.mqtt.client' 2>/dev/null; then
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$requirement" >&2
fi
echo "$python"
