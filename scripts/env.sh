# Sourced by the other scripts and by make: where built and downloaded things are kept.
#
# They lie outside of the checkout, so that a fresh clone does not compile RocksDB again.

HOLDFAST_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/holdfast"
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOLDFAST_CACHE/target}"
export HOLDFAST_CACHE CARGO_TARGET_DIR

# rustup installs here without changing the PATH of shells that are already open.
if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    export PATH
fi
