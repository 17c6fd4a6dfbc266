# shellcheck shell=bash
# What scripts/bench.sh measures, a function for each section, and what they share. Each figure becomes a line of JSON in
# RUN/records, which bench_report.py reads.
#
# Who sources it has measure.sh, fleet.sh, watch.sh, LOAD_BIN and BENCH_BIN (executables), FLOOR (a command) and the numbers
# that choose_form sets.

# By name: what it shows.
SECTIONS='
footprint  size of the executable, from start to ready, resident memory when idle
posts      posts per second at 1, 16, 64 and 256 connections beside the floor, and what they cost
growth     posts per second where many messages are stored already, beside the floor
reads      how long GET /messages takes with many messages, and a page of them, and what that takes in memory
client     the client of this project beside the official Java client
'
section_names() { awk 'NF { print $1 }' <<<"$SECTIONS"; }

CONNECTIONS=(1 16 64 256)
# Those where growth is measured, and the floor; the floor from one thread besides.
USUAL_CONNECTIONS=64

record() { printf '%s\n' "$1" >>"$RUN/records"; }

# --- the lists ---

bench() { "$BENCH_BIN" "$@" >>"$LOGS/bench.log" 2>&1 || fail "bench $*: $(tail -n 2 "$LOGS/bench.log" | tr '\n' ' ')"; }

# store NUMBER: so many messages are in both lists, and no others.
store() {
    until_true 'the system is whole' is_whole
    bench clear
    if (($1 > 0)); then bench fill "$1"; fi
}

# --- posts ---

# measure_floor ROUND: first from many threads, which warms up more.
measure_floor() {
    local line
    say "round $1: the floor, $USUAL_CONNECTIONS threads and 1"
    store 0
    with_marks floor "$RUN/floor.json" "${FLOOR[@]}" pair "$USUAL_CONNECTIONS,1" "$MEASURE_SECONDS" "$FLOOR_WARM_UP" ||
        fail "the floor: $(tail -n 3 "$LOGS/floor.log" | tr '\n' ' ')"
    while IFS= read -r line; do
        [[ $line =~ \"threads\":([0-9]+) ]] || fail "the floor printed: $line"
        record "{\"section\":\"floor\",\"round\":$1,\"cost\":$(cost "pair-${BASH_REMATCH[1]}"),\"figures\":$line}"
    done <"$RUN/floor.json"
}

# measure_posts SECTION ROUND STORED CONNECTIONS
measure_posts() {
    local url arguments=()
    say "round $2: posts, $4 connections, $3 messages stored"
    store "$3"
    for url in "${FACADES[@]:0:$4}"; do arguments+=(--url "$url"); done
    reset_peaks
    rm -f "$RUN"/measur*-load "$RUN/drained"
    # Whether something is missing, the report says.
    in_a_group load "${arguments[@]}" --clients "$4" || true
    [[ -s $RUN/load.json && -s $RUN/measured-load ]] || fail "the load: $(tail -n 3 "$LOGS/load.log" | tr '\n' ' ')"
    record "{\"section\":\"$1\",\"round\":$2,\"stored\":$3,\"connections\":$4,\"cost\":$(cost load),\
\"drained_ms\":$(<"$RUN/drained"),\"peak_kb\":$(memory VmHWM),\"load\":$(<"$RUN/load.json")}"
}

load() {
    load_marks | marked load "$RUN/load.json" "$LOAD_BIN" "$@" --stdin --json \
        --verify-after "${DRAIN_SECONDS}s" --verify-within "${PATIENCE}s"
}
# What counts begins when everything is connected and warm.
load_marks() {
    sleep "$WARM_UP"
    echo measured
    sleep "$MEASURE_SECONDS"
}

section_posts() {
    local connections
    measure_floor "$1"
    for connections in "${CONNECTIONS[@]}"; do measure_posts posts "$1" 0 "$connections"; done
}

section_growth() {
    local stored
    measure_floor "$1"
    for stored in "${GROWTH[@]}"; do measure_posts growth "$1" "$stored" "$USUAL_CONNECTIONS"; done
    store 0
}

# --- reads ---

section_reads() {
    local stored read before times
    for stored in "${READS[@]}"; do
        say "round $1: reads, $stored messages stored"
        store "$stored"
        reset_peaks
        before=$(memory VmRSS) times=''
        for ((read = 0; read < READS_OF_EACH; read++)); do
            times+=,$(curl --silent --show-error --fail --max-time "$PATIENCE" --output /dev/null \
                --write-out '{"seconds":%{time_total},"first_byte_seconds":%{time_starttransfer},"bytes":%{size_download}}' \
                "${FACADES[0]}/messages") || fail "GET /messages of $stored messages"
        done
        record "{\"section\":\"reads\",\"round\":$1,\"stored\":$stored,\"reads\":[${times#,}],\"pages\":[$(read_pages)],\
\"resident_kb\":$before,\"peak_kb\":$(memory VmHWM)}"
    done
    store 0
}

# The first pages, each by the link of the one before: how long each took, and how many messages it had.
read_pages() {
    local target='/messages?limit=1000' page pages='' seconds
    for ((page = 0; page < READS_OF_EACH; page++)); do
        if [[ -z $target ]]; then break; fi
        seconds=$(curl --silent --show-error --fail --max-time "$PATIENCE" --dump-header "$RUN/page.head" \
            --output "$RUN/page.json" --write-out '%{time_total}' "${FACADES[0]}$target") || fail "GET $target"
        pages+=",{\"seconds\":$seconds,\"messages\":$(grep --only-matching '"identifier":' "$RUN/page.json" | wc -l)}"
        target=$(sed --quiet 's/^link: <\(.*\)>; rel="next".*$/\1/Ip' "$RUN/page.head")
    done
    printf '%s' "${pages#,}"
}

# --- the client ---

section_client() {
    local operations=set,get,offer,pair tasks=$USUAL_CONNECTIONS
    say "round $1: the clients, $tasks threads and tasks"
    store 0
    with_marks floor "$RUN/floor.json" "${FLOOR[@]}" "$operations" "$tasks" "$MEASURE_SECONDS" "$FLOOR_WARM_UP" ||
        fail "the floor: $(tail -n 3 "$LOGS/floor.log" | tr '\n' ' ')"
    record_client "$1" java "$RUN/floor.json"
    with_marks client "$RUN/client.json" "$BENCH_BIN" measure "$operations" --tasks "$tasks" \
        --duration "${MEASURE_SECONDS}s" --warm-up "${WARM_UP}s" ||
        fail "the client: $(tail -n 3 "$LOGS/client.log" | tr '\n' ' ')"
    record_client "$1" rust "$RUN/client.json"
}

# record_client ROUND CLIENT FILE
record_client() {
    local line
    while IFS= read -r line; do
        record "{\"section\":\"client\",\"round\":$1,\"client\":\"$2\",\"figures\":$line}"
    done <"$3"
}

# --- footprint ---

section_footprint() {
    local name ready='' start
    say "round $1: starts of each role, and $IDLE_SECONDS s without a request"
    for name in facade-1 logging-1 messages-1; do
        for ((start = 0; start < STARTS; start++)); do
            end_instance TERM "$name"
            start_to_ready "$name"
            ready+=",{\"role\":\"${name%-*}\",\"ms\":$READY_MS}"
            until_true 'the system is whole' is_whole
        done
    done
    find_processes
    sleep "$IDLE_SECONDS" # of idleness: what is measured, not waited for
    record "{\"section\":\"footprint\",\"round\":$1,\"executable_bytes\":$(stat -c %s "$SVC_BIN"),\
\"ready\":[${ready#,}],\"idle_kb\":$(memory VmRSS)}"
}

# start_to_ready NAME: sets READY_MS to the time until /health is 200. Asked without another process, which would take longer
# than what is measured.
start_to_ready() {
    local began=${EPOCHREALTIME//[!0-9]/}
    start_instance "$1"
    until_ready "${INSTANCE_PORT[$1]}" "$1"
    READY_MS=$(((${EPOCHREALTIME//[!0-9]/} - began) / 1000))
}

# until_ready PORT NAME
until_ready() {
    local status='' end=$((SECONDS + PATIENCE))
    until [[ $status == *' 200 '* ]]; do
        ((SECONDS < end)) || fail "$2 is not ready within $PATIENCE s: ${status:-no answer}"
        if { exec 7<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null; then
            printf 'GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$2" >&7
            IFS= read -r -t 2 status <&7 || true
            exec 7>&-
        fi
    done
}
