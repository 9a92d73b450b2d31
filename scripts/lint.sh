#!/usr/bin/env bash
# Format and lints of all Rust code, and what it depends on; a warning fails. One profile for
# everything: see Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

if ! cargo fmt --version >/dev/null || ! cargo clippy --version >/dev/null; then
    echo "lint: rustfmt or clippy is missing. With rustup: rustup component add rustfmt clippy" >&2
    exit 1
fi
cargo fmt --all --check
scripts/cargo.sh clippy --release --locked --workspace --all-targets -- -D warnings
scripts/deny.sh
