#!/usr/bin/env bash
# One part dies under load, on real engines and real processes: nothing acknowledged is lost, and nothing fails.
# See `scripts/chaos.sh help`.
set -euo pipefail

# What a shell may have for other work, and the instances would take for theirs.
unset PORT SVC_HOST SVC_ADVERTISE SVC_LOCAL SVC_WAIT HZ_NETWORK_PUBLICADDRESS CONSUL_HTTP_TOKEN CONSUL_ESSENTIAL_KEY

PROGRAM=chaos
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source-path=SCRIPTDIR
. "$SCRIPTS/lib/common.sh"
. "$SCRIPTS/lib/tools.sh"
. "$SCRIPTS/lib/config.sh"
. "$SCRIPTS/lib/process.sh"
. "$SCRIPTS/lib/watch.sh"
. "$SCRIPTS/lib/load.sh"
. "$SCRIPTS/lib/fleet.sh"
. "$SCRIPTS/lib/scenarios.sh"

# How long any answer may take, with 500 ms for the way.
ANY_ANSWER_MS=5500
# How long a condition is waited for, in seconds: on two cores, five JVMs start at once.
PATIENCE=120
# Posts a second at most, of all clients together: what must be there for a run to count, and no more than the members' heap
# holds for all scenarios.
RATE=500
# Engines and instances are started anew where so many texts are in the lists.
MOST_TEXTS=60000

usage() {
    cat <<'HELP'
usage: scripts/chaos.sh [--short] [--minutes N] [--seed N] [SCENARIO…]

Starts a Consul agent and two Hazelcast clusters on free ports, 2 facades, 3 logging and 2 messages instances. In each
SCENARIO, without one in all of them, 8 clients post through both facades, a part is killed or hangs and comes back, and at
the end every text that was acknowledged is looked for in both lists. Ends all that it started, however it ends.

  logging          an instance of 3 is killed (-9), and started again; so in all scenarios
  messages         an instance of 2, and then the other one, 20 times in all
  backlog          both messages instances; then one of them, three times, as soon as it works off what waited
  facade           one of 2; what was posted through it meanwhile may fail
  logging-member   a Hazelcast member of 3
  mq-member        a Hazelcast member of 2
  logging-cluster  all members at once: 503 is allowed until 15 s after they are back
  mq-cluster       the same
  consul           Consul, for 20 s
  consul-empty     Consul, which comes back without its data: all are registered again within 10 s
  hang-logging     a logging instance is stopped (SIGSTOP) for 10 s
  hang-member      a member of mq, for 20 s: 503 is allowed until 15 s after it goes on
  halted-backup    a member of mq is stopped for a second, and the other one killed meanwhile; then the other way round:
                   the same
  rolling          SIGTERM and a new start of each instance, one after the other
  random           any of the single kills above, one after the other, for some minutes

A line for each: what was posted and acknowledged, what failed and the longest answer (but through a facade while it was
killed), which acknowledged texts are missing from either list, which are there twice; and whether what is promised held.
The promises are a table in scripts/lib/scenarios.sh. A run counts only with 2,000 acknowledged before and 2,000 after the
event, and 200 a second. Exits 0 only if every promise held and every run counts; else it says where the logs are.

  --short      less load before and after, shorter outages, fewer kills of one kind, for a machine that does other work too: an
               answer may take 5 s in each scenario, and a run counts with 300 acknowledged before and 300 after
  --minutes N  how long random takes, default 5, or 1 with --short
  --seed N     of random, to have the same kills again; it says which it took

environment
  SVC_BIN        the executable; without it, cargo builds target/release/svc
  SVC_LOAD       the load generator; without it, cargo builds target/release/examples/load
  SVC_CACHE_DIR  where logs of what failed are kept, in chaos-logs; default ~/.cache/svc
HELP
}

misuse() {
    printf '%s: %s\n\n' "$PROGRAM" "$1" >&2
    usage >&2
    exit 2
}

# --- arguments ---

SHORT=0 MINUTES='' SEED=$RANDOM CHOSEN=()

parse_arguments() {
    while (($# > 0)); do
        case $1 in
            help | -h | --help) usage && exit 0 ;;
            --short) SHORT=1 ;;
            --minutes) need_number "$@" && MINUTES=$2 && shift ;;
            --seed) need_number "$@" && SEED=$2 && shift ;;
            *) [[ -n $(promise "$1") ]] || misuse "no such scenario: $1" && CHOSEN+=("$1") ;;
        esac
        shift
    done
    if ((${#CHOSEN[@]} == 0)); then mapfile -t CHOSEN < <(scenario_names); fi
}

need_number() { [[ ${2:-} =~ ^[1-9][0-9]{0,4}$ ]] || misuse "$1 takes a number from 1 on"; }

# choose_form: how long each part takes, in seconds, and what makes a run count.
choose_form() {
    if [[ $SHORT == 1 ]]; then
        STEADY_SECONDS=5 DEAD_SECONDS=3 CONSUL_SECONDS=8 MESSAGES_KILLS=4 LEAST=300 LEAST_PER_SECOND=0 MINUTES=${MINUTES:-1}
    else
        STEADY_SECONDS=15 DEAD_SECONDS=5 CONSUL_SECONDS=20 MESSAGES_KILLS=20 LEAST=2000 LEAST_PER_SECOND=200 MINUTES=${MINUTES:-5}
    fi
}

build() {
    need_tool curl curl
    need_tool python3 python3
    if [[ -z ${SVC_BIN:-} ]]; then
        (cd "$ROOT" && cargo build --release --locked)
        SVC_BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release/svc
    fi
    if [[ -z ${SVC_LOAD:-} ]]; then
        (cd "$ROOT" && cargo build --release --locked --example load)
        SVC_LOAD=${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/load
    fi
    SVC_BIN=$(realpath -- "$SVC_BIN")
    # shellcheck disable=SC2034 # for lib/load.sh
    LOAD_BIN=$(realpath -- "$SVC_LOAD")
    "$SCRIPTS/engines.sh" fetch
}

# --- one scenario: a process of its own, so that one that cannot go on ends alone ---

SCENARIO='' BROKEN=() CHILD=''

# fail WHAT: the scenario, or the start of the system, cannot go on.
fail() {
    local what=$1 also
    # Each after its --broken.
    for also in "${BROKEN[@]}"; do if [[ $also != --broken ]]; then what="$also; $what"; fi; done
    if [[ -n $SCENARIO ]]; then printf '%-16s  BROKEN: %s\n' "$SCENARIO" "$what"; else say "error: $what"; fi
    exit 1
}

run_scenario() {
    local failures longest_ms verify_seconds health text_bytes watcher='' options=()
    SCENARIO=$1
    trap stop_load EXIT
    read -r failures longest_ms verify_seconds health text_bytes < <(promise "$1")
    # It may run beside other work, which makes an answer late; but in 5 s there is one, whatever is dead.
    if [[ $SHORT == 1 ]]; then longest_ms=$ANY_ANSWER_MS; fi
    until_true 'everything is whole before it begins' is_whole
    rm -f "$RUN/load.json" "$RUN/health"
    start_load --rate "$RATE" --text-bytes "$text_bytes" --verify-within "${verify_seconds}s"
    if [[ $health == health ]]; then
        touch "$RUN/health"
        watch_health "$RUN/health" 8>&- &
        watcher=$!
        options=(--health "$RUN/health")
    fi
    sleep "$STEADY_SECONDS" # of load: what is measured, not waited for
    "scenario_${1//-/_}"
    until_true 'everything is whole again' is_whole
    mark after
    sleep "$STEADY_SECONDS"
    if [[ -n $watcher ]]; then kill "$watcher"; fi
    # The judge says what is missing.
    end_load || true
    judge_load --scenario "$1" --failures "$failures" --longest-ms "$longest_ms" --least "$LEAST" \
        --least-per-second "$LEAST_PER_SECOND" "${options[@]}" "${BROKEN[@]}"
}

# in_a_process COMMAND…: in a process group of its own, which can be ended whole. Sets STATUS.
in_a_process() {
    set -m
    (
        set +m -e
        "$@"
    ) &
    CHILD=$!
    set +m
    STATUS=0
    wait "$CHILD" || STATUS=$?
    # What it left running, where it could not go on.
    if [[ $STATUS != 0 ]]; then kill -KILL -- "-$CHILD" 2>/dev/null || true; fi
    CHILD=''
}

keep_logs() {
    local kept=$CACHE_DIR/chaos-logs/$1
    mkdir -p "$kept/engines"
    cp "$LOGS"/*.log "$kept"
    cp "$RUN"/load.json "$RUN"/health "$kept" 2>/dev/null || true
    cp "$DIR"/logs/*.log "$kept/engines" 2>/dev/null || true
    say "$1: what all of them said is in $kept"
}

# texts: how many the load has had acknowledged.
texts() { grep -o '"acknowledged":[0-9]*' "$RUN/load.json" 2>/dev/null | tail -n 1 | cut -d: -f2; }

run_all() {
    local name in_lists=0 runs=0 failed=() count
    rm -rf "$CACHE_DIR/chaos-logs"
    python3 "$SCRIPTS/lib/judge_load.py" -
    for name in "${CHOSEN[@]}"; do
        if ((runs == 0)); then start_system; fi
        in_a_process run_scenario "$name"
        runs=$((runs + 1))
        count=$(texts) || count=0
        in_lists=$((in_lists + ${count:-0}))
        if [[ $STATUS != 0 ]]; then failed+=("$name") && keep_logs "$name"; fi
        # What a broken promise left behind is not for the next one to bear.
        if [[ $STATUS != 0 ]] || ((in_lists > MOST_TEXTS)); then
            stop_system
            runs=0 in_lists=0
        fi
    done
    if ((${#failed[@]} > 0)); then
        say "${#failed[@]} of ${#CHOSEN[@]} scenarios did not hold: ${failed[*]}"
        return 1
    fi
    say "all of it held"
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    if [[ -n $CHILD ]]; then
        disown || true
        kill -KILL -- "-$CHILD" 2>/dev/null || true
    fi
    stop_system
    rm -rf "$RUN"
    exit "$status"
}

parse_arguments "$@"
choose_form
RUN=$(mktemp -d "${TMPDIR:-/tmp}/svc-chaos.XXXXXX")
LOGS=$RUN/logs DIR=$RUN/engines
mkdir -p "$LOGS"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
build
run_all
