# shellcheck shell=bash
# The system under test: engines of scripts/engines.sh in DIR, and instances as processes of ours.
#
# Who sources it has config.sh, process.sh and watch.sh, RUN and LOGS (folders), SVC_BIN (an absolute path) and `fail`.
# Pids are in files: a scenario runs in a process of its own, and those after it have to know what it started.

INSTANCES=(facade-1 facade-2 logging-1 logging-2 logging-3 messages-1 messages-2)
declare -A INSTANCE_PORT=() # by name; an instance comes back where it was

# Processes that live on close descriptor 8: see load.sh.
engines() {
    local log=$LOGS/engines.log
    "$SCRIPTS/engines.sh" "$@" --dir "$DIR" >>"$log" 2>&1 8>&- || fail "engines.sh $*: $(tail -n 3 "$log" | tr '\n' ' ')"
}

# --- instances ---

url_of() { printf 'http://127.0.0.1:%s\n' "${INSTANCE_PORT[$1]}"; }

# instance_pid NAME: sets PID, or fails where it does not run.
instance_pid() {
    PID=''
    { read -r PID <"$RUN/$1.pid"; } 2>/dev/null || return 1
    is_process "$PID" "$SVC_BIN"
}

start_instance() {
    "$SVC_BIN" "${1%-*}" --port "${INSTANCE_PORT[$1]}" </dev/null >>"$LOGS/$1.log" 2>&1 8>&- &
    printf '%s\n' "$!" >"$RUN/$1.pid"
    # Or bash tells of each one that is killed.
    disown
}

# signal_instance SIGNAL NAME
signal_instance() {
    instance_pid "$2" || fail "$2 does not run; its log ends: $(tail -n 2 "$LOGS/$2.log" | tr '\n' ' ')"
    kill "-$1" "$PID"
}

# end_instance SIGNAL NAME: and it is gone.
end_instance() {
    signal_instance "$1" "$2"
    until_true "$2 ends by SIG$1" is_gone "$2"
}
is_gone() { ! instance_pid "$1"; }

is_healthy() { curl --silent --fail --max-time 2 --output /dev/null "$(url_of "$1")/health"; }

# --- engines ---

# signal_engine SIGNAL NAME
signal_engine() {
    engine_pid "$2" || fail "$2 does not run"
    kill "-$1" "$PID"
}

# kill_engines NAME…: kill -9, all at once, and they are gone.
kill_engines() {
    local name
    for name in "$@"; do signal_engine KILL "$name"; done
    for name in "$@"; do until_true "$name is gone" engine_is_gone "$name"; done
}
engine_is_gone() { ! engine_pid "$1"; }

# --- all of it ---

start_system() {
    local name
    say 'starting the engines, 2 facades, 3 logging and 2 messages instances'
    engines up --free-ports
    load_plan
    set -a
    # shellcheck disable=SC1091
    . "$DIR/engines.env"
    set +a
    # shellcheck disable=SC2034 # for watch.sh
    CONSUL_URL=$CONSUL_HTTP_ADDR
    populate_kv
    for name in "${INSTANCES[@]}"; do
        # Not one of those that the kernel gives to connections: while an instance is dead, nobody takes its port.
        free_port
        INSTANCE_PORT[$name]=$FREE_PORT
        start_instance "$name"
    done
    # shellcheck disable=SC2034 # for load.sh
    FACADES=("$(url_of facade-1)" "$(url_of facade-2)")
}

populate_kv() { "$SVC_BIN" populate-kv >>"$LOGS/populate-kv.log" 2>&1 || fail 'populate-kv failed'; }

stop_system() {
    local name
    for name in "${INSTANCES[@]}"; do if instance_pid "$name"; then kill -KILL "$PID" 2>/dev/null || true; fi; done
    "$SCRIPTS/engines.sh" down --purge --dir "$DIR" >/dev/null 2>&1 || true
}

# is_whole: each engine runs and is ready, clusters have all members and backups; each instance is healthy and passes.
is_whole() {
    local name
    for name in "${ENGINES[@]}"; do engine_pid "$name" && ! is_paused "$name" && is_ready "$name" || return 1; done
    for name in "${INSTANCES[@]}"; do is_healthy "$name" || return 1; done
    all_pass 3
}

# watch_health FILE: asks each instance twice a second, until it is killed; a line of URL, status and seconds for each.
watch_health() {
    local name arguments=()
    for name in "${INSTANCES[@]}"; do arguments+=(--output /dev/null "$(url_of "$name")/health"); done
    while true; do
        curl --silent --max-time 2 --write-out '%{url_effective} %{http_code} %{time_total}\n' "${arguments[@]}" >>"$1" || true
        sleep 0.5
    done
}
