#!/usr/bin/env bash
# Builds and runs the fuzz targets of tests/fuzz: `scripts/fuzz.sh SECONDS [TARGET...]`, each target
# for so long; without targets all of them. `scripts/fuzz.sh merge [TARGET...]` replaces the corpus in
# the repository by the smallest one of what was found so far that reaches as much of the code.
#
# No nightly toolchain is needed: what cargo-fuzz would pass to the compiler is below.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

manifest=tests/fuzz/Cargo.toml
seconds="${1:-60}"
shift || true
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    mapfile -t targets < <(sed -n 's|^path = "targets/\(.*\)\.rs"|\1|p' "$manifest")
fi

# The compiler's coverage for libFuzzer: a counter per edge, and the values of comparisons.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
triple="$(rustc -vV | sed -n 's/^host: //p')"
build_dir="$HOLDFAST_CACHE/fuzz/target"

# RocksDB is taken from the ordinary build: compiling it once more takes 20 minutes.
built_rocksdb() { compgen -G "$CARGO_TARGET_DIR/release/build/librocksdb-sys-*/out/librocksdb.a"; }
use_built_rocksdb() {
    built_rocksdb >/dev/null || scripts/cargo.sh build --release --locked -p rocksdb
    ROCKSDB_LIB_DIR="$(dirname "$(built_rocksdb | xargs ls -t | head -n 1)")"
    export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
}

build() {
    local target="$1" features
    features="$(sed -n "/^name = \"$target\"/,/^$/s/^required-features = \[\"\(.*\)\"\]/\1/p" "$manifest")"
    if [ "$features" = store ]; then
        use_built_rocksdb
    fi
    # The versions that the broker is built with. cargo adds what only fuzzing needs.
    cp Cargo.lock tests/fuzz/Cargo.lock
    # With --target the flags are not for build scripts.
    RUSTFLAGS="$coverage" cargo build --release --quiet --manifest-path "$manifest" \
        --target "$triple" --target-dir "$build_dir" --features "$features" --bin "$target"
}

# The corpus in the repository: one input per line, in hexadecimal.
unpack() {
    local line
    while read -r line; do
        printf '%b' "$(sed 's/../\\x&/g' <<<"$line")" >"$2/$(sha1sum <<<"$line" | cut -c 1-16)"
    done <"$1"
}

pack() {
    local file
    for file in "$2"/*; do
        od -An -v -tx1 "$file" | tr -d ' \n'
        echo
    done | grep . | awk '{ print length, $0 }' | sort -n -k 1,1 -k 2,2 | cut -d ' ' -f 2 >"$1"
}

fuzz() {
    local target="$1" program="$build_dir/$triple/release/$1" work="$HOLDFAST_CACHE/fuzz/$1"
    local packed="tests/fuzz/corpus/$1.hex"
    mkdir -p "$work/corpus" "$work/findings"
    if [ -e "$packed" ]; then
        unpack "$packed" "$work/corpus"
    fi
    if [ "$seconds" = merge ]; then
        rm -rf "$work/merged"
        mkdir "$work/merged"
        "$program" -set_cover_merge=1 -use_counters=0 "$work/merged" "$work/corpus" 2>&1 | tail -n 1
        pack "$packed" "$work/merged"
        return
    fi
    # Short inputs run fast and say as much; only a log of entries needs room.
    local bytes_max=1024
    if [ "$target" = machine ]; then
        bytes_max=4096
    fi
    echo "fuzz: $target for $seconds s; findings go to $work/findings"
    # Of libFuzzer's report: no line for each new input, no proposed dictionary.
    "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len="$bytes_max" \
        -print_final_stats=1 -artifact_prefix="$work/findings/" "$work/corpus" 2>&1 |
        tee "$work/log" | awk '/^#####/ { hidden = /Recommended/; next }
            !hidden && !/^(#[0-9]+\t(NEW|REDUCE|RELOAD)|\tNEW_FUNC|INFO:|WARNING:|Loaded )/ { print; fflush() }'
}

outcome=0
for target in "${targets[@]}"; do
    build "$target"
    fuzz "$target" || outcome=1
done
exit "$outcome"
