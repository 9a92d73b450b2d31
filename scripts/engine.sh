#!/usr/bin/env bash
# A Docker engine for the tests: `engine.sh start` uses the one that runs, or starts one when dockerd is
# installed and may be started here; `engine.sh stop` stops what `start` started. `start` also sees to
# the image debian:bookworm-slim: pulled, or where no registry can be reached, made with debootstrap.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

folder="$HOLDFAST_CACHE/deploy"
pid_file="$folder/dockerd.pid"
base="debian:bookworm-slim"
mkdir -p "$folder"

answers() { docker info >/dev/null 2>&1; }

start() {
    if ! answers; then
        if ! command -v dockerd >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
            echo "engine: no Docker engine answers, and none can be started here" >&2
            return 1
        fi
        setsid dockerd >"$folder/dockerd.log" 2>&1 </dev/null &
        echo $! >"$pid_file"
        for _ in {1..60}; do
            answers && break
            kill -0 "$(cat "$pid_file")" 2>/dev/null || break
            sleep 1
        done
        if ! answers; then
            tail -n 5 "$folder/dockerd.log" >&2
            stop
            return 1
        fi
    fi
    docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet "$base" >/dev/null 2>&1 || make_base
}

make_base() {
    local mirror work
    mirror="$(sed -nE 's/^URIs: *([^ ]+).*/\1/p' /etc/apt/sources.list.d/debian.sources | head -n 1)"
    work="$(mktemp -d)"
    echo "engine: $base can't be pulled: making a stand-in, two minutes" >&2
    if ! debootstrap --variant=minbase bookworm "$work/tree" "$mirror" >"$folder/debootstrap.log" 2>&1; then
        tail -n 5 "$folder/debootstrap.log" >&2
        rm -rf "$work"
        return 1
    fi
    rm -rf "$work"/tree/var/cache/apt/archives/*.deb "$work"/tree/var/lib/apt/lists/* "$work"/tree/usr/share/{doc,man}/*
    tar -C "$work/tree" -c . | docker import -c 'CMD ["bash"]' - "$base" >/dev/null
    rm -rf "$work"
}

stop() {
    [ -e "$pid_file" ] || return 0
    local pid
    pid="$(cat "$pid_file")"
    rm -f "$pid_file"
    kill "$pid" 2>/dev/null || return 0
    for _ in {1..60}; do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 1
    done
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    *) echo "usage: engine.sh start|stop" >&2; exit 2 ;;
esac
