#!/usr/bin/env bash
# Shows that the conformance tests bite: each mutant of tests/mutants/broker.txt is a deliberate mistake
# of the broker, which violates one statement, and the test that bears its id must fail.
#
#     scripts/broker_mutants.sh            all of them
#     scripts/broker_mutants.sh NAME...    some
#
# All are built into one binary, in a copy of the checkout, and chosen by HOLDFAST_MUTANT when it starts.
# HOLDFAST_MUTANTS_AT_ONCE tests run at the same time; each starts brokers of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

folder="$HOLDFAST_CACHE/mutants/broker"
copy="$folder/workspace"
target="$folder/target"
logs="$folder/logs"
at_once="${HOLDFAST_MUTANTS_AT_ONCE:-4}"
# A failure is what we look for; nobody reads where it was noticed.
export RUST_BACKTRACE=0
mkdir -p "$folder"
rm -rf "$logs"
mkdir "$logs"

list="$(python3 scripts/broker_mutants.py list "$@")"
python3 scripts/broker_mutants.py copy "$copy"

# RocksDB takes 20 minutes to compile: what is built of others' code is taken over once.
if [ ! -d "$target" ] && [ -d "$CARGO_TARGET_DIR/release" ]; then
    mkdir "$target.new"
    cp -a --reflink=auto "$CARGO_TARGET_DIR/release" "$target.new/"
    mv "$target.new" "$target"
fi
(cd "$copy" && CARGO_TARGET_DIR="$target" scripts/cargo.sh build --release --locked -p node --bin holdfast)
mutants="$target/release/holdfast"
conformance="$(scripts/cargo.sh test --release --locked -p node --test conformance --no-run --message-format json |
    sed -n 's|.*"executable":"\([^"]*/conformance-[^"]*\)".*|\1|p' | tail -n 1)"

# run MUTANT TEST: whether the test passes with this mutant; `none` is none of them.
run() {
    HOLDFAST_TEST_BINARY="$mutants" HOLDFAST_MUTANT="$1" "$conformance" --exact "$2" \
        >"$logs/$1 ${2//\//.}" 2>&1
}

# The sound broker passes, or the test proves nothing.
sound() {
    if run none "$1" && grep -q "^test result: ok. 1 passed" "$logs/none ${1//\//.}"; then
        return
    fi
    echo "$1 fails without any mutant" >>"$logs/problems"
}

# Found is a mutant by what the script expects and the broker does not do, not by a broker that is not
# there.
mutant() {
    local name="$1" test="$2" log
    log="$logs/$name ${test//\//.}"
    if grep -qxF "$test fails without any mutant" "$logs/problems"; then
        echo "$name: nothing is shown by $test" >>"$logs/problems"
    elif run "$name" "$test"; then
        echo "$name: NOT FOUND by $test" >>"$logs/problems"
    elif grep -q "tests/conformance/scripts/${test%%::*}.txt, \(after \)\?line " "$log" &&
        ! grep -q "can't connect: \|panicked at" "$log"; then
        echo "$name: found by $test"
    else
        echo "$name: $test did not run as it should" >>"$logs/problems"
    fi
}

# Calls a function for each line of the input, so many at once.
each() {
    local function="$1" line
    while read -r line; do
        while [ "$(jobs -pr | wc -l)" -ge "$at_once" ]; do wait -n || true; done
        # The words of the line are the arguments.
        # shellcheck disable=SC2086
        "$function" $line &
    done
    wait
}

touch "$logs/problems"
cut -d ' ' -f 2 <<<"$list" | sort -u | each sound
each mutant <<<"$list"

count="$(wc -l <<<"$list")"
missed="$(grep -c '^[^ ]*: ' "$logs/problems" || true)"
echo "$count mutants, $((count - missed)) found"
if [ -s "$logs/problems" ]; then
    sort "$logs/problems" >&2
    echo "what the tests printed: $logs" >&2
    exit 1
fi
