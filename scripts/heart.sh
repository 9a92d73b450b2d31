#!/usr/bin/env bash
# Makes a small workspace in a folder: the pure crates, and the pure modules of raft-store under its
# own name, with its model tests. It needs no RocksDB, so it builds in seconds.
#
#     scripts/heart.sh FOLDER [SOURCE]
#
# Files that are the same already keep their time, so that cargo builds again only what differs.
set -euo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
fi
folder="$1"
source="$(cd "${2:-$(dirname "$0")/..}" && pwd)"
store="$source/crates/raft-store"

# Modules of raft-store that know no disk, network or clock.
modules=(batch command digest encoding ids machine state)
tests=(model proposer determinism)

new="$(mktemp -d)"
trap 'rm -rf "$new"' EXIT
mkdir -p "$new/crates/raft-store/src" "$new/crates/raft-store/tests" "$new/tests/support"
cp -r "$source/crates/codec" "$source/crates/session" "$source/crates/router" "$new/crates/"
cp -r "$source/proto" "$new/"
# How the scenarios of `session` are read.
cp "$source/tests/support/script.rs" "$new/tests/support/"
cp "$source/Cargo.lock" "$source/rust-toolchain.toml" "$new/" 2>/dev/null || cp "$source/Cargo.lock" "$new/"

# The root manifest, with the members that are here, and a profile that builds and runs quickly.
sed -e '/^\[profile/,$d' \
    -e 's|^members = .*|members = ["crates/codec", "crates/session", "crates/router", "crates/raft-store"]|' \
    "$source/Cargo.toml" >"$new/Cargo.toml"
cat >>"$new/Cargo.toml" <<'TOML'
[profile.dev]
opt-level = 1
debug = false
TOML

heart="$new/crates/raft-store"
for module in "${modules[@]}"; do
    cp -r "$store/src/$module.rs" "$heart/src/"
    if [ -d "$store/src/$module" ]; then
        cp -r "$store/src/$module" "$heart/src/"
    fi
done
# Of the proposer, the bookkeeping.
{
    echo '#![allow(unused_imports, dead_code, reason = "only a part of the file")]'
    sed -e '/^pub struct Proposer</,$d' -e '/^use tokio/d' -e '/^use crate::forward/d' -e '/^use crate::pace/d' "$store/src/proposer.rs"
    echo 'struct End;'
} >"$heart/src/proposer.rs"
{
    echo '#![allow(missing_docs, dead_code, reason = "only a part of the crate")]'
    for module in "${modules[@]}" proposer; do echo "pub mod $module;"; done
    awk '/^pub use (batch|command|encoding|ids|machine|state)::/ { on = 1 } on { print } /;$/ { on = 0 }' \
        "$store/src/lib.rs"
    echo 'pub use proposer::ProposerCore;'
} >"$heart/src/lib.rs"
for test in "${tests[@]}"; do
    cp -r "$store/tests/$test.rs" "$heart/tests/"
    if [ -d "$store/tests/$test" ]; then
        cp -r "$store/tests/$test" "$heart/tests/"
    fi
done
cat >"$heart/Cargo.toml" <<'TOML'
[package]
name = "raft-store"
description = "The pure heart of raft-store"
version.workspace = true
edition.workspace = true
publish.workspace = true

[dependencies]
codec.workspace = true
session.workspace = true
router.workspace = true
bytes.workspace = true
prost.workspace = true
thiserror.workspace = true
xxhash-rust.workspace = true

[build-dependencies]
protox.workspace = true
tonic-prost-build.workspace = true

[dev-dependencies]
proptest.workspace = true
TOML
cat >"$heart/build.rs" <<'RUST'
//! Compiles the stored formats.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto/state.proto");
    let descriptors = protox::compile(["../../proto/state.proto"], ["../../proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
RUST

mkdir -p "$folder"
(cd "$new" && find . -type f) | while read -r file; do
    if ! cmp -s "$new/$file" "$folder/$file"; then
        mkdir -p "$folder/$(dirname "$file")"
        cp "$new/$file" "$folder/$file"
    fi
done
(cd "$folder" && find crates proto -type f) | while read -r file; do
    if [ ! -e "$new/$file" ]; then rm "$folder/$file"; fi
done
