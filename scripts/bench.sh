#!/usr/bin/env bash
# How fast it is, on real engines and real processes, beside what the engines give to the official client.
# See `scripts/bench.sh help`.
set -euo pipefail

# What a shell may have for other work, and the instances would take for theirs.
unset PORT SVC_HOST SVC_ADVERTISE SVC_LOCAL SVC_WAIT HZ_NETWORK_PUBLICADDRESS CONSUL_HTTP_TOKEN CONSUL_ESSENTIAL_KEY

# Fractions have a point.
export LC_ALL=C

PROGRAM=bench
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source-path=SCRIPTDIR
. "$SCRIPTS/lib/common.sh"
. "$SCRIPTS/lib/versions.sh"
. "$SCRIPTS/lib/tools.sh"
. "$SCRIPTS/lib/config.sh"
. "$SCRIPTS/lib/process.sh"
. "$SCRIPTS/lib/watch.sh"
. "$SCRIPTS/lib/fleet.sh"
. "$SCRIPTS/lib/measure.sh"
. "$SCRIPTS/lib/sections.sh"

# How long a condition is waited for, in seconds: on two cores, five JVMs start at once.
PATIENCE=120
# Of each member: a million messages, their copies and as many again, without a full collection all the time.
export HZ_HEAP=${HZ_HEAP:-2g}

usage() {
    cat <<HELP
usage: scripts/bench.sh [--short] [--rounds N] [--seconds N] [--json FILE] [SECTION…]

Starts a Consul agent, three Hazelcast members 'logging' and two 'mq', 2 facades, 3 logging and 2 messages
instances on free ports of loopback, measures, prints tables, and ends all that it started, however it ends.
Without a SECTION, all of them:

$(sed '/^$/d; s/^/  /' <<<"$SECTIONS")

The floor is the official Java client, which does nothing but map.set and queue.offer, one after the other, on the
same clusters, from 64 threads and from one, the queue drained as it goes (benches/floor). In each round the floor
comes first, then the system, and what is printed is the median of the rounds; in brackets, its ratio to the floor
of 64 threads, with one connection to that of one thread. All texts have 100 bytes. After each load every
acknowledged text is looked for in both lists, and the queue has to be empty within $DRAIN_SECONDS s.

  --rounds N   how often everything is measured, default 3
  --seconds N  how long each measurement takes, default 10
  --short      one round of 3 s each, with fewer messages stored: to see that it works. Its figures say little
  --json FILE  write all figures there, those of each round, too

Exits 1 where a text is missing or there twice, a list is not whole, or a measurement failed; targets that were not
reached are only said. It wants a machine that does nothing else: what the rest of it used meanwhile is told.

environment
  SVC_BIN        the executable; without it, cargo builds target/release/svc
  SVC_LOAD       the load generator; without it, cargo builds target/release/examples/load
  SVC_BENCH      the client of the clusters; without it, cargo builds target/release/examples/bench
  HZ_HEAP        heap of each member, default 2g
  SVC_CACHE_DIR  where logs of what failed are kept, in bench-logs; default ~/.cache/svc
HELP
}

misuse() {
    printf '%s: %s\n\n' "$PROGRAM" "$1" >&2
    usage >&2
    exit 2
}

# --- arguments ---

SHORT=0 ROUNDS='' MEASURE_SECONDS='' JSON='' CHOSEN=()

parse_arguments() {
    while (($# > 0)); do
        case $1 in
            help | -h | --help) usage && exit 0 ;;
            --short) SHORT=1 ;;
            --rounds) need_number "$@" && ROUNDS=$2 && shift ;;
            --seconds) need_number "$@" && MEASURE_SECONDS=$2 && shift ;;
            --json) [[ -n ${2:-} ]] || misuse "$1 takes a file" && JSON=$2 && shift ;;
            *) section_names | grep -qxF -e "$1" || misuse "no such section: $1" && CHOSEN+=("$1") ;;
        esac
        shift
    done
    if ((${#CHOSEN[@]} == 0)); then mapfile -t CHOSEN < <(section_names); fi
}

need_number() { [[ ${2:-} =~ ^[1-9][0-9]{0,3}$ ]] || misuse "$1 takes a number from 1 on"; }

# choose_form: numbers of messages and seconds. Warming up does not count; a JVM needs more of it.
# shellcheck disable=SC2034 # for lib/sections.sh
choose_form() {
    if [[ $SHORT == 1 ]]; then
        ROUNDS=${ROUNDS:-1} MEASURE_SECONDS=${MEASURE_SECONDS:-3} WARM_UP=1 FLOOR_WARM_UP=3 MEMBERS_WARM_UP=5
        GROWTH=(0 10000) READS=(1000 10000) READS_OF_EACH=2 STARTS=1 IDLE_SECONDS=3
    else
        ROUNDS=${ROUNDS:-3} MEASURE_SECONDS=${MEASURE_SECONDS:-10} WARM_UP=2 FLOOR_WARM_UP=8 MEMBERS_WARM_UP=30
        GROWTH=(0 100000 1000000) READS=(1000 10000 100000 1000000) READS_OF_EACH=5 STARTS=5 IDLE_SECONDS=10
    fi
}

# --- what it needs ---

# built NAME GIVEN ARGUMENTS…: sets BUILT to what was given, else to what cargo builds.
built() {
    BUILT=$2
    if [[ -z $BUILT ]]; then
        (cd "$ROOT" && cargo build --release --locked "${@:3}")
        BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/release/$1
    fi
    BUILT=$(realpath -- "$BUILT")
}

# shellcheck disable=SC2034 # for the parts
build() {
    need_tool curl curl
    need_tool python3 python3
    need_tool javac default-jdk-headless
    built svc "${SVC_BIN:-}" --bin svc && SVC_BIN=$BUILT
    built examples/load "${SVC_LOAD:-}" --example load && LOAD_BIN=$BUILT
    built examples/bench "${SVC_BENCH:-}" --example bench && BENCH_BIN=$BUILT
    "$SCRIPTS/engines.sh" fetch
    hazelcast_jar
    javac -encoding UTF-8 -d "$RUN/floor" -cp "$HAZELCAST_JAR" "$ROOT/benches/floor/Floor.java"
    # The collector that costs least on few cores: a client keeps little.
    FLOOR=(java -Xms1g -Xmx1g -XX:+UseSerialGC -XX:-UsePerfData -Dhazelcast.logging.type=none "${JAVA_FLAGS[@]}"
        -cp "$HAZELCAST_JAR:$RUN/floor" Floor)
}

fail() { die "$1" "what all of them said is kept in $CACHE_DIR/bench-logs"; }

# --- the run ---

# describe_machine: JSON of what the figures are of.
describe_machine() {
    local load commit java
    read -r load _ </proc/loadavg
    commit=$(git -C "$ROOT" describe --always --dirty 2>/dev/null) || commit=unknown
    java=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java\.vm\.version = //p')
    printf '{"section":"machine","cores":%d,"processor":"%s","memory_mb":%d,"kernel":"%s","java":"%s","hazelcast":"%s",' \
        "$(nproc)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
        "$(awk '$1 == "MemTotal:" { print int($2 / 1024) }' /proc/meminfo)" "$(uname -sr)" "$java" "$HAZELCAST_VERSION"
    printf '"consul":"%s","heap":"%s","commit":"%s","load_at_start":%s,"rounds":%d,"seconds":%d}\n' \
        "$CONSUL_VERSION" "$HZ_HEAP" "$commit" "$load" "$ROUNDS" "$MEASURE_SECONDS"
}

# warm_up: members that have just started compile what they run often.
warm_up() {
    say "warming up the members for $MEMBERS_WARM_UP s"
    "${FLOOR[@]}" pair "$USUAL_CONNECTIONS" "$MEMBERS_WARM_UP" 1 >/dev/null 2>>"$LOGS/floor.log" ||
        fail "the floor: $(tail -n 3 "$LOGS/floor.log" | tr '\n' ' ')"
}

run_all() {
    local round section
    describe_machine >"$RUN/records"
    start_system
    until_true 'the system is whole' is_whole
    find_processes
    warm_up
    for ((round = 1; round <= ROUNDS; round++)); do
        for section in "${CHOSEN[@]}"; do "section_$section" "$round"; done
    done
    python3 "$SCRIPTS/lib/bench_report.py" "$RUN/records" ${JSON:+--json "$JSON"}
}

# shellcheck disable=SC2329 # called by the trap
clean_up() {
    local status=$?
    trap '' INT TERM HUP
    if [[ -n $GROUP ]]; then
        disown || true
        kill -KILL -- "-$GROUP" 2>/dev/null || true
    fi
    if ((status != 0)) && [[ -d $LOGS ]]; then
        mkdir -p "$CACHE_DIR/bench-logs/engines"
        cp "$LOGS"/*.log "$RUN/records" "$CACHE_DIR/bench-logs" 2>/dev/null || true
        cp "$DIR"/logs/*.log "$CACHE_DIR/bench-logs/engines" 2>/dev/null || true
    fi
    stop_system
    rm -rf "$RUN"
    exit "$status"
}

parse_arguments "$@"
choose_form
# shellcheck disable=SC2034 # for the parts
RUN=$(mktemp -d "${TMPDIR:-/tmp}/svc-bench.XXXXXX")
LOGS=$RUN/logs DIR=$RUN/engines
mkdir -p "$LOGS" "$RUN/floor"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
build
run_all
