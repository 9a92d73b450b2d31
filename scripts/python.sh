#!/usr/bin/env bash
# Prints the path of a Python that has the MQTT clients paho-mqtt and aiomqtt, made in the cache folder
# when needed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

requirements=("paho-mqtt==2.1.0" "aiomqtt==2.5.1")
folder="$HOLDFAST_CACHE/python/$(IFS=,; echo "${requirements[*]}")"
python="$folder/bin/python3"

if ! "$python" -c 'import paho.mqtt.client, aiomqtt' 2>/dev/null; then
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    python3 -m venv "$folder" >&2
    "$folder/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]}" >&2
fi
echo "$python"
