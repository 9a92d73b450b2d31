#!/usr/bin/env bash
# Runs all tests. A test that cannot run here prints `SKIP: NAME: REASON`, and must be listed in
# tests/allowed_skips. Ends with how many tests passed and failed in all.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

if HOLDFAST_PYTHON="$(scripts/python.sh)"; then
    export HOLDFAST_PYTHON
else
    echo "test: there is no Python with paho-mqtt; the tests that need it will be skipped" >&2
fi
if HOLDFAST_NODE_MODULES="$(scripts/interop_node.sh)"; then
    export HOLDFAST_NODE_MODULES
else
    echo "test: there is no Node.js with mqtt.js; the test that needs it will be skipped" >&2
fi
if HOLDFAST_SCHEMATHESIS="$(scripts/schemathesis.sh)"; then
    export HOLDFAST_SCHEMATHESIS
else
    echo "test: there is no schemathesis; the test that needs it will be skipped" >&2
fi

if HOLDFAST_DEPLOY_TOOLS="$(scripts/deploy_tools.sh)"; then
    export HOLDFAST_DEPLOY_TOOLS
else
    echo "test: there are no tools for deploy/; the tests that need them will be skipped" >&2
fi

if HOLDFAST_SCHEMATHESIS="$(scripts/schemathesis.sh)"; then
    export HOLDFAST_SCHEMATHESIS
else
    echo "test: there is no schemathesis; the test that needs it will be skipped" >&2
fi

output="$(mktemp)"
trap 'scripts/engine.sh stop; rm -f "$output"' EXIT
scripts/engine.sh start || echo "test: there is no Docker engine; the tests that need one will be skipped" >&2
outcome=0
scripts/cargo.sh test --release --locked --workspace --no-fail-fast 2>&1 | tee "$output" || outcome=$?

# Colours would be in front of the words.
sed -i 's/\x1b\[[0-9;]*m//g' "$output"
skipped="$(sed -n 's/^.*SKIP: \([A-Za-z0-9_:]*\)[: ].*$/\1/p' "$output" | sed 's/:*$//' | sort -u)"
for name in $skipped; do
    if grep -qxF "${name##*::}" tests/allowed_skips; then
        echo "skipped: $name (allowed)"
    else
        echo "skipped: $name, which is not in tests/allowed_skips" >&2
        outcome=1
    fi
done

awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
    END { printf "total: %d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$output"
if [ "$outcome" -ne 0 ]; then
    # What the failed tests said, last: a log is read from its end.
    sed -n '/^failures:$/,/^test result: FAILED/p' "$output" | tail -n 400 >&2
    grep -E '^test .* FAILED$' "$output" >&2 || true
fi
exit "$outcome"
