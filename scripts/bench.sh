#!/usr/bin/env bash
# Measures Holdfast against mosquitto and prints the table of docs/performance.md. Arguments go to
# `holdfast-bench` (--long, --only durable,live,idle,failover,more, --check); `bench.sh --help`.
# HOLDFAST_BIN: another broker than the one that is built here.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

if [ -z "${HOLDFAST_BIN:-}" ]; then
    scripts/cargo.sh build --release --locked --bin holdfast
    HOLDFAST_BIN="$CARGO_TARGET_DIR/release/holdfast"
fi
export HOLDFAST_BIN
scripts/cargo.sh build --release --locked --bin holdfast-bench --bin holdfast-load

# Data on a disk, not on a memory file system: the cost of an fsync is part of the result.
dir="${HOLDFAST_BENCH_DIR:-$HOLDFAST_CACHE/bench}"
mkdir -p "$dir"
# Each connection is a descriptor.
ulimit -n "$(ulimit -Hn)"
"$CARGO_TARGET_DIR/release/holdfast-bench" --dir "$dir/brokers" --json "$dir/result.json" "$@"
echo "Everything that was measured: $dir/result.json"
