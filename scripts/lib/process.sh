# shellcheck shell=bash disable=SC2034 # variables that other parts read
# Engines as processes: start, stop, find, ask how they are.
#
# A process is ours if the path of its configuration file is one of its arguments: a pid
# file alone proves nothing once the pid has been given to somebody else.
#
# Functions here end in `return 0`, never a bare `return`: they also run in the EXIT trap, where a
# bare one gives the status from before the trap.

READY_SECONDS=120 # for all engines together, on a machine busy with a build
STOP_SECONDS=20   # hand-over of a member's data (10 s at most) included

declare -A LOG_START=() # by name: bytes of its log before this start
SPAWNING=0              # 1 while a process exists that no pid file names yet
STOP_STATUS=''          # set by a signal that came meanwhile

pid_file() { printf '%s\n' "$DIR/pids/$1.pid"; }
log_file() { printf '%s\n' "$DIR/logs/$1.log"; }
marker() {
    if [[ $1 == consul ]]; then printf -- '-config-file=%s\n' "$(config_file consul)"; else
        printf -- '-Dhazelcast.config=%s\n' "$(config_file "$1")"
    fi
}

# is_process PID MARKER: it lives (a zombie has no arguments) and is the one we mean.
is_process() {
    local arguments argument
    { mapfile -d '' -t arguments <"/proc/$1/cmdline"; } 2>/dev/null || return 1
    for argument in "${arguments[@]}"; do [[ $argument == "$2" ]] && return 0; done
    return 1
}

# engine_pid NAME: sets PID, or fails where the engine does not run.
engine_pid() {
    PID=''
    { read -r PID <"$(pid_file "$1")"; } 2>/dev/null || return 1
    [[ $PID =~ ^[0-9]+$ ]] && is_process "$PID" "$(marker "$1")"
}

is_paused() { # NAME: stopped by SIGSTOP
    local stat
    engine_pid "$1" && { stat=$(<"/proc/$PID/stat"); } 2>/dev/null && [[ ${stat##*) } == [Tt]* ]]
}

# --- start ---

consul_command() { COMMAND=("$CONSUL" agent "$(marker consul)"); }

member_command() {
    # The serial collector has the least threads. With gigabytes it would stand still for more than a second.
    local collector=-XX:+UseSerialGC
    if [[ $HEAP == *[gG] ]]; then collector=-XX:+UseG1GC; fi
    COMMAND=(java "-Xms$HEAP" "-Xmx$HEAP" "$collector" -XX:+ExitOnOutOfMemoryError -XX:-UsePerfData)
    if [[ -n $CLASS_ARCHIVE ]]; then COMMAND+=("-XX:SharedArchiveFile=$CLASS_ARCHIVE" -Xlog:cds=off -Xlog:cds+dynamic=off); fi
    COMMAND+=("${JAVA_FLAGS[@]}" "$(marker "$1")" -cp "$HAZELCAST_JAR" com.hazelcast.core.server.HazelcastMemberStarter)
}

# spawn NAME: starts it in a session of its own, so that a Ctrl-C meant for us does not reach it.
spawn() {
    local name=$1 log pid
    log=$(log_file "$name")
    if [[ $name == consul ]]; then consul_command; else member_command "$name"; fi
    touch "$log"
    LOG_START[$name]=$(stat -c %s "$log")
    SPAWNING=1
    setsid "${COMMAND[@]}" </dev/null >>"$log" 2>&1 9>&- &
    pid=$!
    disown "$pid"
    printf '%s\n' "$pid" >"$(pid_file "$name").new"
    mv "$(pid_file "$name").new" "$(pid_file "$name")"
    until is_process "$pid" "$(marker "$name")" || ! kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
    SPAWNING=0
    if [[ -n $STOP_STATUS ]]; then exit "$STOP_STATUS"; fi
}

new_log() { tail -c "+$((${LOG_START[$1]:-0} + 1))" "$(log_file "$1")" 2>/dev/null || true; }

# lost_port NAME: its log says that somebody else had the port.
lost_port() { new_log "$1" | grep -qiE 'address already in use|is already in use'; }

# explain NAME WHAT: the end of its log, on standard error.
explain() {
    say "$1 $2; the end of its log $(log_file "$1"):"
    new_log "$1" | tail -n 25 | sed 's/^/    /' >&2
}

# --- health ---

http_get() { curl --silent --fail --noproxy '*' --max-time 2 "http://127.0.0.1:$1$2" 2>/dev/null; }

# A leader that has just been elected answers from a state that it is still reading back; a
# consistent read it refuses until that is done.
consul_ready() {
    [[ $(http_get "${PORT[consul]}" /v1/status/leader) == '"'*:*'"' ]] &&
        http_get "${PORT[consul]}" '/v1/catalog/services?consistent' >/dev/null
}

# member_ready NAME SIZE: active, in a cluster of SIZE (or more) whose backups are complete.
member_ready() {
    local health
    health=$(http_get "${PORT[$1]}" /hazelcast/health) || return 1
    [[ $health == *'"nodeState":"ACTIVE"'* && $health == *'"clusterSafe":true'* ]] || return 1
    [[ $health =~ \"clusterSize\":([0-9]+) ]] && ((BASH_REMATCH[1] >= $2))
}

# running_members CLUSTER: how many of them can answer. Sets COUNT.
running_members() {
    local name
    COUNT=0
    for name in $(members "$1"); do
        if engine_pid "$name" && ! is_paused "$name"; then COUNT=$((COUNT + 1)); fi
    done
}

is_ready() { # NAME
    if [[ $1 == consul ]]; then consul_ready; else
        running_members "${CLUSTER[$1]}"
        member_ready "$1" "$COUNT"
    fi
}

# await_ready NAME…: 0 once all are ready. Else sets FAILED, says why, and returns
# 2 where a port was lost to somebody else, 1 otherwise.
await_ready() {
    local name deadline
    deadline=$(($(uptime_seconds) + READY_SECONDS))
    for name in "$@"; do
        until is_ready "$name"; do
            FAILED=$(first_dead "$@")
            if [[ -n $FAILED ]]; then
                if lost_port "$FAILED"; then return 2; fi
                explain "$FAILED" "ended instead of getting ready"
                return 1
            fi
            if (($(uptime_seconds) >= deadline)); then
                FAILED=$name
                explain "$name" "was not ready within $READY_SECONDS s"
                return 1
            fi
            sleep 0.1
        done
    done
}

first_dead() {
    local name
    for name in "$@"; do engine_pid "$name" || { printf '%s\n' "$name" && return 0; }; done
}

# --- stop ---

# stop_engine NAME [SIGNAL]: TERM unless told, KILL after STOP_SECONDS; returns once it is gone.
# CONT, since a paused process takes no TERM.
stop_engine() {
    local name=$1 signal=${2:-TERM} deadline
    engine_pid "$name" || { rm -f "$(pid_file "$name")" && return 0; }
    kill "-$signal" "$PID" 2>/dev/null || true
    kill -CONT "$PID" 2>/dev/null || true
    deadline=$(($(uptime_seconds) + STOP_SECONDS))
    while is_process "$PID" "$(marker "$name")"; do
        if (($(uptime_seconds) >= deadline)); then
            say "$name (pid $PID) did not end within $STOP_SECONDS s of SIG$signal: killed"
            kill -KILL "$PID" 2>/dev/null || true
            deadline=$(($(uptime_seconds) + STOP_SECONDS))
        fi
        sleep 0.05
    done
    rm -f "$(pid_file "$name")"
}

# take_down: ends every engine of DIR. Members get KILL: with the whole cluster going there is
# nobody to hand data to. Consul gets TERM, since what it stores stays. What a `start` of
# another process left without a pid file is found by its arguments.
take_down() {
    local name pid
    for name in "${ENGINES[@]}"; do
        if [[ $name != consul ]] && engine_pid "$name"; then kill -KILL "$PID" 2>/dev/null || true; fi
    done
    for name in "${ENGINES[@]}"; do
        if [[ $name == consul ]]; then stop_engine consul; else stop_engine "$name" KILL; fi
        for pid in $(pids_by_arguments "$name"); do
            printf '%s\n' "$pid" >"$(pid_file "$name")"
            stop_engine "$name" KILL
        done
    done
}

pids_by_arguments() {
    local file
    grep -lzxF -e "$(marker "$1")" /proc/[0-9]*/cmdline 2>/dev/null |
        while IFS=/ read -r _ _ file _; do printf '%s\n' "$file"; done || true
}
