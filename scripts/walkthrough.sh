#!/usr/bin/env bash
# The whole story on real engines and real processes: post, kill, post, kill, read, and nothing is missing.
# Prints each step and what Consul says; exits 0 only if all of it held. See `scripts/walkthrough.sh help`.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source-path=SCRIPTDIR
. "$SCRIPTS/lib/watch.sh"
# How long a condition is waited for, in seconds.
PATIENCE=30

usage() {
    cat <<'HELP'
usage: scripts/walkthrough.sh

Starts a Consul agent and two Hazelcast clusters on free ports, 2 facades, 3 logging and 2 messages
instances; posts "never" and finds it in every logging instance; kills one logging instance (-9), waits
until Consul passes two, posts "gonna"; kills one more logging and one messages instance; reads both lists
through each facade: both hold both. Ends all that it started.

environment
  SVC_BIN   the executable; without it, cargo builds target/release/svc
HELP
}

step() { printf '\n== %s\n' "$*"; }
show() { printf '   %s\n' "$*"; }
fail() {
    printf '\nwalkthrough: %s\n' "$*" >&2
    printf 'what the instances said last:\n' >&2
    tail -n 5 "$DIR"/*.log >&2 || true
    exit 1
}

# --- instances: PID[name], ADDRESS[name] ---

declare -A PID=() ADDRESS=()
DIR=''

# shellcheck disable=SC2329 # called by the trap
clean_up() {
    local name
    for name in "${!PID[@]}"; do kill -KILL "${PID[$name]}" 2>/dev/null || true; done
    "$SCRIPTS/engines.sh" down --purge --dir "$DIR/engines" >/dev/null 2>&1 || true
    rm -rf "$DIR"
}

# address_of NAME: sets ADDRESS[name] from the line that says where it listens.
address_of() {
    ADDRESS[$1]=$(sed -n 's/.*listening.* address=\([0-9.:]*\).*/\1/p' "$DIR/$1.log" | head -n 1)
    [[ -n ${ADDRESS[$1]} ]]
}

is_healthy() { curl -fs -m 2 "http://${ADDRESS[$1]}/health" >/dev/null; }

# start NAME ROLE: one instance on a free port.
start() {
    "$SVC_BIN" "$2" --port 0 >"$DIR/$1.log" 2>&1 &
    PID[$1]=$!
    disown
}

# kill_instance NAME: kill -9, and it is gone.
kill_instance() {
    show "kill -9 ${PID[$1]}    # $1 at ${ADDRESS[$1]}"
    kill -KILL "${PID[$1]}"
    until_true "$1 is gone" is_gone "${PID[$1]}"
    unset "PID[$1]"
}
is_gone() { ! kill -0 "$1" 2>/dev/null; }

# --- requests ---

post() {
    local answer
    answer=$(curl -sS -m 6 -w ' %{http_code}' -X POST "http://${ADDRESS[$1]}/message?text=$2") || fail "post to $1: $answer"
    show "curl -X POST 'http://${ADDRESS[$1]}/message?text=$2'    → $answer"
    [[ $answer == *' 201' ]] || fail "the post was not acknowledged"
}

logs_have() { [[ $(curl -fs -m 5 "http://${ADDRESS[$1]}/logs") == *"\"$2\""* ]]; }

# both_lists_have FACADE TEXT…: as it answers now.
both_lists_have() {
    LAST_ANSWER=$(curl -sS -m 10 "http://${ADDRESS[$1]}/messages" 2>&1) || return 1
    shift
    both_have "$LAST_ANSWER" "$@"
}
show_messages() { show "curl http://${ADDRESS[$1]}/messages    → $(curl -fs -m 10 "http://${ADDRESS[$1]}/messages")"; }

# --- the story ---

case ${1:-} in
    '') ;;
    help | -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
esac

if [[ -z ${SVC_BIN:-} ]]; then
    (cd "$ROOT" && cargo build --release --locked)
    SVC_BIN=$ROOT/target/release/svc
fi
DIR=$(mktemp -d "${TMPDIR:-/tmp}/svc-walkthrough.XXXXXX")
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step 'Engines: a Consul agent, three Hazelcast members for the logs, two for the queue'
"$SCRIPTS/engines.sh" fetch
"$SCRIPTS/engines.sh" up --free-ports --dir "$DIR/engines" >"$DIR/engines.log" 2>&1 || fail "the engines do not start"
set -a
# shellcheck disable=SC1091
. "$DIR/engines/engines.env"
set +a
CONSUL_URL=$CONSUL_HTTP_ADDR
show "Consul at $CONSUL_URL, logging at $HZ_LOGGING_MEMBERS, mq at $HZ_MQ_MEMBERS"

step 'Settings'
"$SVC_BIN" populate-kv >"$DIR/populate-kv.log" 2>&1 || fail "populate-kv failed"
show "$(curl -fs "$CONSUL_URL/v1/kv/?keys")"

step 'Instances: 2 facades, 3 logging, 2 messages'
INSTANCES=(facade-1 facade-2 logging-1 logging-2 logging-3 messages-1 messages-2)
for name in "${INSTANCES[@]}"; do start "$name" "${name%-*}"; done
for name in "${INSTANCES[@]}"; do
    until_true "$name listens" address_of "$name"
    until_true "$name is healthy" is_healthy "$name"
    show "$name at ${ADDRESS[$name]}, pid ${PID[$name]}"
done
until_true 'Consul passes 2 facades' passes facade-service 2
until_true 'Consul passes 3 logging' passes logging-service 3
until_true 'Consul passes 2 messages' passes messages-service 2
show_catalog

step 'Post "never"; every logging instance shows it'
post facade-1 never
for name in logging-1 logging-2 logging-3; do
    until_true "$name shows never" logs_have "$name" never
    show "curl http://${ADDRESS[$name]}/logs    → $(curl -fs "http://${ADDRESS[$name]}/logs")"
done

step 'Kill a logging instance; wait until Consul passes two'
kill_instance logging-1
until_true 'Consul passes 2 logging' passes logging-service 2
show_catalog

step 'Post "gonna" through the other facade'
post facade-2 gonna

step 'Kill one more logging instance, and one messages instance, and read at once'
kill_instance logging-2
kill_instance messages-1
for name in facade-1 facade-2; do
    until_true "both lists of $name hold both texts" both_lists_have "$name" never gonna
    show_messages "$name"
done
until_true 'Consul passes 1 logging' passes logging-service 1
until_true 'Consul passes 1 messages' passes messages-service 1
show_catalog

step 'All of it held: nothing that was acknowledged is missing, nothing is there twice'
