#!/usr/bin/env bash
# Shows that the tests bite: each patch of tests/mutants is a deliberate mistake that one named test must
# find. It is applied to a copy of the pure crates (scripts/heart.sh), so nothing here needs RocksDB.
#
#     scripts/mutants.sh            all of them
#     scripts/mutants.sh NAME...    some: names of files in tests/mutants, without .patch
#
# A patch says what is wrong, and in a line `Test: PACKAGE TARGET NAME` who finds it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
root="$PWD"

folder="$HOLDFAST_CACHE/mutants"
export CARGO_TARGET_DIR="$folder/target"
# What is wrong is known: nobody needs the smallest failure.
export HOLDFAST_TEST_SHRINK=0 PROPTEST_MAX_SHRINK_ITERS=0 RUST_BACKTRACE=0
copy="$folder/workspace"
log="$folder/log"

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in tests/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi

in_copy() { (cd "$copy" && "$@"); }

survivors=()
for name in "${names[@]}"; do
    patch="$root/tests/mutants/$name.patch"
    read -r package target test < <(sed -n 's/^Test: //p' "$patch")
    scripts/heart.sh "$copy"
    if ! patch -s -p1 -d "$copy" <"$patch" >"$log" 2>&1; then
        echo "$name: does not apply to the sources any more; write it anew" >&2
        cat "$log" >&2
        survivors+=("$name")
        continue
    fi
    build=(cargo test -q -p "$package" --test "$target")
    if [ "$target" = --lib ]; then build=(cargo test -q -p "$package" --lib); fi
    if ! in_copy "${build[@]}" --no-run >"$log" 2>&1; then
        echo "$name: does not compile" >&2
        grep -E -A5 '^error' "$log" >&2 || true
        survivors+=("$name")
    elif in_copy "${build[@]}" -- --exact "$test" >"$log" 2>&1; then
        echo "$name: NOT FOUND by $package $target $test"
        survivors+=("$name")
    elif grep -q "^test result: FAILED\|panicked at\|overflowed its stack" "$log"; then
        echo "$name: found by $test"
    else
        echo "$name: $test did not run" >&2
        tail -5 "$log" >&2
        survivors+=("$name")
    fi
done
scripts/heart.sh "$copy"

echo "${#names[@]} mutants, $((${#names[@]} - ${#survivors[@]})) found"
if [ ${#survivors[@]} -gt 0 ]; then
    echo "not found: ${survivors[*]}" >&2
    exit 1
fi
