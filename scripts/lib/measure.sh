# shellcheck shell=bash
# What processes cost, from /proc: CPU time and memory. Nothing is started for it, which would cost, too.
#
# Who sources it has fleet.sh and process.sh, RUN (a folder) and BENCH_BIN (examples/bench, built).

TICKS_PER_SECOND=$(getconf CLK_TCK)
# How long after the load's end the queue may take to be empty, in seconds; nobody reads the lists meanwhile.
DRAIN_SECONDS=2

declare -A PROCESSES=() # by name: pids of all processes of the system
GROUP=''                # the process group that is waited for

# find_processes: members are called hazelcast-NAME, since instances have their names.
find_processes() {
    local name
    PROCESSES=()
    for name in "${INSTANCES[@]}"; do
        instance_pid "$name" || fail "$name does not run"
        PROCESSES[$name]=$PID
    done
    for name in "${ENGINES[@]}"; do
        engine_pid "$name" || fail "the engine $name does not run"
        if [[ $name == consul ]]; then PROCESSES[$name]=$PID; else PROCESSES[hazelcast-$name]=$PID; fi
    done
}

# --- CPU time ---

# ticks PID: sets TICKS to what it has used until now, user and system.
ticks() {
    local stat fields
    { IFS= read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }"
    TICKS=$((fields[11] + fields[12]))
}

# machine_ticks: sets TICKS to what the whole machine has used.
machine_ticks() {
    local name user nice system idle waiting irq softirq
    # shellcheck disable=SC2034 # names of columns
    read -r name user nice system idle waiting irq softirq _ </proc/stat
    TICKS=$((user + nice + system + irq + softirq))
}

# snapshot FILE: what each process has used until now, and when that is.
snapshot() {
    local name
    {
        printf 'clock %s\n' "${EPOCHREALTIME//[!0-9]/}"
        machine_ticks && printf 'machine %s\n' "$TICKS"
        for name in "${!PROCESSES[@]}"; do
            if ticks "${PROCESSES[$name]}"; then printf '%s %s\n' "$name" "$TICKS"; fi
        done
    } >"$1"
}

# cost NAME: JSON of what was used between the snapshots measuring-NAME and measured-NAME: {seconds, cpu_seconds: {…}}.
cost() {
    awk -v hertz="$TICKS_PER_SECOND" '
        FNR == NR { before[$1] = $2; next }
        $1 == "clock" { seconds = ($2 - before[$1]) / 1e6; next }
        $1 in before { all = all sprintf("%s\"%s\":%.2f", all ? "," : "", $1, ($2 - before[$1]) / hertz) }
        END { printf "{\"seconds\":%.3f,\"cpu_seconds\":{%s}}\n", seconds, all }
    ' "$RUN/measuring-$1" "$RUN/measured-$1"
}

# in_a_group COMMAND…: in a process group of its own, which a signal to us can end at once.
in_a_group() {
    local status=0
    set -m
    (
        set +m
        "$@"
    ) &
    GROUP=$!
    set +m
    wait "$GROUP" || status=$?
    GROUP=''
    return "$status"
}

# with_marks NAME OUT COMMAND…: runs it in a group, with standard output to OUT. At each moment that it tells of on standard
# error, a snapshot is taken, in which it is called NAME. Returns what it returned.
with_marks() { in_a_group marked "$@"; }

marked() {
    local name=$1 out=$2
    shift 2
    # shellcheck disable=SC2094 # the pid is not read before the command says something
    (
        printf '%s\n' "$BASHPID" >"$RUN/$name.pid"
        exec "$@"
    ) 2>&1 >"$out" | take_marks "$name"
}

take_marks() {
    local line
    while IFS= read -r line; do
        PROCESSES[$1]=$(<"$RUN/$1.pid")
        case $line in
            'measuring '* | 'measured '*) snapshot "$RUN/${line// /-}" ;;
            'load: window "measured" begins') snapshot "$RUN/measuring-load" ;;
            'load: the load has ended')
                # What was left to do then was its work, too.
                await_drained
                snapshot "$RUN/measured-load"
                ;;
        esac
        printf '%s\n' "$line" >>"$LOGS/$1.log"
    done
}

# await_drained: writes how many ms the queue takes to be empty, the time to connect to it included, or null.
await_drained() {
    local began=${EPOCHREALTIME//[!0-9]/} took=null
    if "$BENCH_BIN" drained --within "${DRAIN_SECONDS}s" 2>>"$LOGS/bench.log"; then
        took=$(((${EPOCHREALTIME//[!0-9]/} - began) / 1000))
    fi
    printf '%s\n' "$took" >"$RUN/drained"
}

# --- memory ---

# memory FIELD: JSON of what /proc/PID/status says of each instance, in kB: VmRSS is what is resident, VmHWM the most that
# was, since reset_peaks.
memory() {
    local name list=''
    for name in "${INSTANCES[@]}"; do
        list+=,\"$name\":$(awk -v field="$1:" '$1 == field { print $2 }' "/proc/${PROCESSES[$name]}/status")
    done
    printf '{%s}\n' "${list#,}"
}

reset_peaks() {
    local name
    for name in "${INSTANCES[@]}"; do echo 5 >"/proc/${PROCESSES[$name]}/clear_refs"; done
}
