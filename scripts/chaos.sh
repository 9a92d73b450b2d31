#!/usr/bin/env bash
# Torments the compose cluster that runs here (deploy/compose/README.md) for CHAOS_SECONDS, 180 by
# default, and prints a verdict. Further arguments go to holdfast-chaos, e.g. --json.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# It needs nothing of the broker: RocksDB is not compiled for it.
cargo build --release --locked --quiet --package testkit --bin holdfast-chaos
exec "$CARGO_TARGET_DIR/release/holdfast-chaos" --seconds "${CHAOS_SECONDS:-180}" "$@"
