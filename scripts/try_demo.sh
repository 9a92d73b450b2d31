#!/usr/bin/env bash
# Does what README.md tells a newcomer: runs its command for the demo, then the commands of its
# section "Try it" one after the other, and kills a node in between. Fails unless every message
# arrives exactly once and the demo stops cleanly.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

ready_within_s="${1:-2700}"
work="$(mktemp -d)"
demo=
finish() {
    if [ -n "$demo" ]; then
        kill -KILL -- "-$demo" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "try_demo: $1" >&2
    sed 's/^/  demo: /' "$work/demo.out" >&2
    exit 1
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local deadline=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        kill -0 "$demo" 2>/dev/null || fail "the demo ended while waiting for $what"
        [ "$SECONDS" -lt "$deadline" ] || fail "no $what in time"
        sleep 0.2
    done
}

# The command of README.md that begins with $1, a line of a shell block.
readme() {
    awk -v start="$1" '/^```/ { inside = /^```sh/ } inside && index($0, start) == 1 { print; exit }' README.md
}

subscribe_here="$(readme 'mosquitto_sub -h 127.0.0.1 -p 1883')"
subscribe_there="$(readme 'mosquitto_sub -h 127.0.0.1 -p 1885')"
publish="$(readme 'mosquitto_pub')"
for command in "$subscribe_here" "$subscribe_there" "$publish"; do
    [ -n "$command" ] || { echo "try_demo: README.md lacks a command of its section 'Try it'" >&2; exit 1; }
done

# A process group of its own, so that an interrupt reaches make and the demo as Ctrl-C would.
: >"$work/demo.out"
DEMO="--ephemeral" setsid $(readme 'make run') >"$work/demo.out" 2>&1 &
demo=$!
is_ready() { grep -q '^Ctrl-C stops' "$work/demo.out"; }
wait_for "$ready_within_s" "ready cluster" is_ready

# subscribe COMMAND COUNT OUT: runs a subscriber in the background until it got COUNT messages.
subscribe() { timeout 60 bash -c "exec $1 -C $2" >"$3" 2>"$3.err" & }

# Registers the session, which outlives the connection.
bash -c "exec $subscribe_here -E" || fail "cannot subscribe"
bash -c "$publish" || fail "cannot publish"
subscribe "$subscribe_here" 1 "$work/first"
wait_for 60 "first message" test -s "$work/first"

first_node="$(sed -n 's/^ *kill -9 \([0-9]*\)$/\1/p' "$work/demo.out" | head -n 1)"
kill -9 "$first_node"
was_noticed() { grep -q '^Node 1 was killed' "$work/demo.out"; }
wait_for 30 "word of the killed node" was_noticed

publish_again() { timeout 10 bash -c "$publish" 2>>"$work/publish.err"; }
wait_for 60 "publish through a node that is left" publish_again
subscribe "$subscribe_there" 1 "$work/second"
wait_for 60 "message on another node" test -s "$work/second"
cmp -s "$work/first" "$work/second" || fail "another message than was published: $(cat "$work/second")"
# Whatever came twice would be waiting now.
if timeout 3 bash -c "exec $subscribe_there -C 1 -W 2" >"$work/third" 2>/dev/null || [ -s "$work/third" ]; then
    fail "a message came twice: $(cat "$work/third")"
fi

kill -INT -- "-$demo"
is_stopped() { ! kill -0 "$demo" 2>/dev/null; }
deadline=$((SECONDS + 30))
until is_stopped; do
    [ "$SECONDS" -lt "$deadline" ] || fail "the demo does not stop"
    sleep 0.2
done
grep -q '^All nodes stopped' "$work/demo.out" || fail "the demo did not stop cleanly"
demo=
echo "try_demo: every message arrived exactly once, also after the kill; the demo stopped cleanly"
