#!/usr/bin/env bash
# Runs cargo with the shared build folder, and shows how far RocksDB is while that is compiled: for
# cargo it is one long step.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# C++ files of RocksDB and its bindings, for the display only.
files_all=343

rocksdb_out() { compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out"; }
rocksdb_is_built() { compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; }

show_progress() {
    local shown=0 files
    # Short naps: a long one would outlive this loop and keep the output open.
    while for _ in {1..15}; do sleep 1; done; do
        files=$(rocksdb_out | xargs -r -I{} find {} -name '*.o' 2>/dev/null | wc -l) || continue
        if [ "$files" -gt "$shown" ]; then
            echo "  RocksDB: $files of about $files_all files compiled"
            shown=$files
        fi
    done
}

if rocksdb_is_built; then
    exec cargo "$@"
fi

echo "The first build compiles RocksDB from source: about 20 minutes on two cores. It is kept in"
echo "$CARGO_TARGET_DIR, so later builds take a minute or two."
show_progress &
progress=$!
trap 'kill "$progress" 2>/dev/null || true' EXIT
cargo "$@"
