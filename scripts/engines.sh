#!/usr/bin/env bash
# The real engines (one Consul agent, two Hazelcast clusters) on this machine, for
# development and tests. See `scripts/engines.sh help`.
set -euo pipefail

# Settings of ours, taken before the rest of their kind is dropped: members would read any HZ_
# variable as configuration, and Consul's tools any CONSUL_ one.
HEAP=${HZ_HEAP:-512m}
unset "${!HZ_@}" "${!CONSUL_@}"

PROGRAM=engines
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$SCRIPTS/lib/versions.sh"
. "$SCRIPTS/lib/common.sh"
. "$SCRIPTS/lib/tools.sh"
. "$SCRIPTS/lib/config.sh"
. "$SCRIPTS/lib/process.sh"

usage() {
    cat <<HELP
Real engines for development and tests: a Consul agent ($CONSUL_VERSION) and two Hazelcast
clusters ($HAZELCAST_VERSION), 'logging' and 'mq', on 127.0.0.1.

usage: scripts/engines.sh COMMAND [OPTIONS]

  up           start what is missing, return when all is ready: Consul has a leader, each cluster
               its full size and all its backups. What runs is kept
  down         stop all. Consul's data and the logs stay in the folder; --purge removes them
  status       table of the engines; exits 0 only if all run and are ready
  start NAME   bring one back (consul, logging-1 …, mq-2) at its address, return when it is ready
               and its cluster whole. --purge: Consul starts with no data
  stop NAME    stop one. A member hands its data over to the others first
  run          like up, then prints "ready" and runs until standard input ends, SIGINT or SIGTERM;
               then stops all, also what was started meanwhile, and removes the folder if it made it
  python       print the path of a Python interpreter that has hazelcast-python-client $HAZELCAST_PYTHON_CLIENT_VERSION
  fetch        only put everything into the cache

options of up and run
  --logging N  members of the cluster logging, $DEFAULT_LOGGING_MEMBERS unless said (ports $LOGGING_FIRST_PORT…)
  --mq N       members of the cluster mq, $DEFAULT_MQ_MEMBERS unless said (ports $MQ_FIRST_PORT…)
  --no-consul  no Consul agent (port $CONSUL_PORT)
  --free-ports take ports that are free now instead of those above
  --public-address NAME=HOST:PORT
               what that member gives to clients as its address, right or wrong; again for another member

options of all
  --dir DIR    folder for ports, data, logs, pids and configuration: SVC_ENGINES_DIR, else .engines
               in the checkout; for run a temporary one

environment
  HZ_HEAP          heap of each member, default 512m
  SVC_CACHE_DIR    where built and fetched programs are kept, default ~/.cache/svc
  SVC_ENGINES_DIR  see --dir

DIR/engines.env says where everything is: set -a; . .engines/engines.env; set +a
HELP
}

# --- arguments ---

COMMAND_NAME='' TARGET='' DIR=${SVC_ENGINES_DIR:-}
LOGGING='' MQ='' NO_CONSUL=0 FREE_PORTS=0 PURGE=0
declare -A WANTED_PUBLIC=() # by name

parse_arguments() {
    COMMAND_NAME=${1:-help}
    if (($# > 0)); then shift; fi
    while (($# > 0)); do
        case $1 in
            --dir) need_value "$@" && DIR=$2 && shift ;;
            --logging) need_count "$@" && LOGGING=$2 && shift ;;
            --mq) need_count "$@" && MQ=$2 && shift ;;
            --no-consul) NO_CONSUL=1 ;;
            --free-ports) FREE_PORTS=1 ;;
            --public-address) need_public_address "$@" && WANTED_PUBLIC[${2%%=*}]=${2#*=} && shift ;;
            --purge) PURGE=1 ;;
            -h | --help) COMMAND_NAME=help ;;
            -*) die "unknown option $1" "see: scripts/engines.sh help" ;;
            *) [[ -z $TARGET ]] || die "one argument too many: $1" "see: scripts/engines.sh help"; TARGET=$1 ;;
        esac
        shift
    done
    [[ -z $TARGET || $COMMAND_NAME == start || $COMMAND_NAME == stop ]] ||
        die "$COMMAND_NAME takes no argument, got: $TARGET" "see: scripts/engines.sh help"
}

need_value() { (($# >= 2)) || die "$1 needs a value"; }
need_count() {
    need_value "$@"
    [[ $2 =~ ^[1-9]$ ]] || die "$1 takes a number of members from 1 to 9, got: $2"
}

need_public_address() {
    need_value "$@"
    [[ $2 =~ ^(logging|mq)-[1-9]=[^[:space:]]+:[0-9]+$ ]] || die "$1 takes NAME=HOST:PORT of a member, got: $2"
}

# --- what up, run and start share ---

find_programs() {
    require_linux
    need_tool curl curl
    if [[ $NO_CONSUL == 0 ]]; then consul_program; fi
    hazelcast_jar
    class_archive
}

# choose_plan: sets KEPT=1 where engines of a plan run already.
choose_plan() {
    local name
    KEPT=0
    load_plan
    for name in "${ENGINES[@]}"; do if engine_pid "$name"; then KEPT=1; fi; done
    if [[ $KEPT == 1 ]]; then check_plan; else
        make_plan "${LOGGING:-$DEFAULT_LOGGING_MEMBERS}" "${MQ:-$DEFAULT_MQ_MEMBERS}" $((1 - NO_CONSUL)) "$FREE_PORTS"
        for name in "${!WANTED_PUBLIC[@]}"; do
            is_planned "$name" || die "--public-address names $name, which is not asked for" "there are: ${ENGINES[*]}"
            PUBLIC[$name]=${WANTED_PUBLIC[$name]}
        done
        save_plan
    fi
    write_configs
}

# What was asked for must agree with what runs; what was not said may be anything.
check_plan() {
    local cluster wanted name
    for cluster in logging:$LOGGING mq:$MQ; do
        wanted=${cluster#*:} cluster=${cluster%:*}
        [[ -z $wanted || $(members "$cluster" | wc -l) == "$wanted" ]] ||
            die "engines with another number of $cluster members run in $DIR" \
                "stop them first: scripts/engines.sh down --dir $DIR"
    done
    for name in "${!WANTED_PUBLIC[@]}"; do
        [[ ${PUBLIC[$name]:-} == "${WANTED_PUBLIC[$name]}" ]] ||
            die "$name in $DIR has another public address" "stop the engines first: scripts/engines.sh down --dir $DIR"
    done
    if [[ $NO_CONSUL == 0 ]]; then
        is_planned consul || die "engines without Consul run in $DIR" \
            "stop them first (scripts/engines.sh down --dir $DIR), or say --no-consul"
    fi
}

# start_missing: sets STARTED to the engines it had to start.
start_missing() {
    local name
    STARTED=()
    for name in "${ENGINES[@]}"; do
        if engine_pid "$name"; then continue; fi
        if is_listening "${PORT[$name]}"; then
            FAILED=$name
            return 2
        fi
        STARTED+=("$name")
        spawn "$name"
    done
}

# bring_up: all engines of a plan, ready; or none of those that it started.
bring_up() {
    local attempt status=0
    mkdir -p "$DIR"
    for ((attempt = 1; attempt <= 5; attempt++)); do
        choose_plan
        status=0 FAILED=''
        start_missing || status=$?
        if ((status == 0)); then await_ready "${ENGINES[@]}" || status=$?; fi
        ((status != 0)) || return 0
        undo_start
        # A port that was free when we looked went to somebody else: the next try takes others.
        # (With fixed ports that can be one of those that only Consul itself uses.)
        ((status == 2 && KEPT == 0)) || break
        if [[ $FREE_PORTS == 0 ]] && is_listening "${PORT[$FAILED]}"; then break; fi
    done
    if ((status == 2)); then port_taken "$FAILED"; fi
    die "the engines did not start: see above; what this run started is stopped again"
}

port_taken() {
    die "port ${PORT[$1]} for $1 is taken by $(port_owner "${PORT[$1]}")" \
        "stop that, or let free ports be chosen: scripts/engines.sh up --free-ports"
}

undo_start() {
    local name
    for name in "${STARTED[@]}"; do stop_engine "$name" KILL; done
}

# --- commands ---

command_up() {
    find_programs
    with_lock "$DIR/lock" 300 bring_up
    say "ready; addresses are in $DIR/engines.env"
}

command_down() {
    if [[ ! -d $DIR ]]; then return 0; fi
    load_plan
    with_lock "$DIR/lock" 300 take_down
    if [[ $PURGE == 1 ]]; then purge; fi
}

# Only what is ours: DIR may be a folder that holds other things.
purge() {
    rm -rf "${DIR:?}"/{conf,data,logs,pids,plan,plan.new,engines.env,engines.env.new,lock}
    rmdir "$DIR" 2>/dev/null || true
}

command_status() {
    local name state all=0
    load_plan
    ((${#ENGINES[@]} > 0)) || die "no engines in $DIR" "start them: scripts/engines.sh up --dir $DIR"
    printf '%-11s %8s  %-16s %-9s %s\n' NAME PID ADDRESS STATE LOG
    for name in "${ENGINES[@]}"; do
        if ! engine_pid "$name"; then state=stopped PID=-; elif is_paused "$name"; then state=paused; elif
            is_ready "$name"
        then state=ready; else state='not ready'; fi
        [[ $state == ready ]] || all=1
        # is_ready looks at other engines too, so PID is asked for again.
        engine_pid "$name" || PID=-
        printf '%-11s %8s  %-16s %-9s %s\n' "$name" "$PID" "127.0.0.1:${PORT[$name]}" "$state" "$(log_file "$name")"
    done
    return "$all"
}

target_engine() {
    load_plan
    [[ -n $TARGET ]] || die "$COMMAND_NAME needs the name of an engine"
    is_planned "$TARGET" || die "no engine $TARGET in $DIR" \
        "there are: ${ENGINES[*]:-none, start them with scripts/engines.sh up}"
}

command_start() {
    target_engine
    is_planned consul || NO_CONSUL=1
    find_programs
    with_lock "$DIR/lock" 300 start_target
    await_ready "$TARGET" || {
        stop_engine "$TARGET" KILL
        if lost_port "$TARGET"; then port_taken "$TARGET"; fi
        die "$TARGET did not start"
    }
}

start_target() {
    if engine_pid "$TARGET"; then return 0; fi
    if is_listening "${PORT[$TARGET]}"; then port_taken "$TARGET"; fi
    if [[ $PURGE == 1 && $TARGET == consul ]]; then rm -rf "$DIR/data/consul"; fi
    spawn "$TARGET"
}

command_stop() {
    target_engine
    with_lock "$DIR/lock" 300 stop_engine "$TARGET"
}

command_run() {
    local watcher made=0
    [[ -d $DIR ]] || made=1
    trap 'on_signal 130' INT
    trap 'on_signal 143' TERM HUP
    trap 'on_signal 0' USR1
    trap 'on_signal 141' PIPE
    # shellcheck disable=SC2064
    trap "finish_run $made" EXIT
    # Whoever started us may be killed at any moment, also while we start: its end of the pipe
    # closes, and that ends us.
    { while read -r; do :; done; kill -USR1 $$; } <&0 >/dev/null 2>&1 &
    watcher=$!
    command_up
    printf 'ready\n'
    while kill -0 "$watcher" 2>/dev/null; do wait "$watcher" || true; done
}

on_signal() {
    STOP_STATUS=$1
    if [[ $SPAWNING == 0 ]]; then exit "$1"; fi
}

finish_run() {
    trap '' INT TERM HUP USR1 PIPE
    exec 9>&-
    if [[ $1 == 1 ]]; then PURGE=1; fi
    command_down
}

# --- main ---

parse_arguments "$@"
if [[ $COMMAND_NAME == run && -z $DIR ]]; then DIR=$(mktemp -d -u "${TMPDIR:-/tmp}/svc-engines.XXXXXX"); fi
DIR=$(realpath -m -- "${DIR:-$SCRIPTS/../.engines}")

case $COMMAND_NAME in
    up | down | status | start | stop | run) "command_$COMMAND_NAME" ;;
    python) python_client && printf '%s\n' "$PYTHON" ;;
    fetch) find_programs && python_client ;;
    help | --help | -h) usage ;;
    *) die "unknown command $COMMAND_NAME" "see: scripts/engines.sh help" ;;
esac
