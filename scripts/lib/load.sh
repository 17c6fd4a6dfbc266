# shellcheck shell=bash
# Load while a script kills things: clients that post without pause, and look for every acknowledged text at the end.
#
# Who sources it has RUN and LOGS (folders), FACADES (URLs), LOAD_BIN (examples/load, built), `until_true` and `fail`.
# Descriptor 8 holds the marks open: a process that is started meanwhile and lives on must close it, or the load never ends.

MARKS=0 # how many were made

# start_load OPTIONS…: 8 clients, dealt out to FACADES.
start_load() {
    local url arguments=()
    for url in "${FACADES[@]}"; do arguments+=(--url "$url"); done
    rm -f "$RUN/marks"
    mkfifo "$RUN/marks"
    MARKS=0
    "$LOAD_BIN" "${arguments[@]}" --clients 8 --stdin --json "$@" <"$RUN/marks" >"$RUN/load.json" 2>"$LOGS/load.log" &
    LOAD=$!
    exec 8>"$RUN/marks"
}

# mark NAME: what fails from now on failed by that.
mark() {
    printf '%s\n' "$1" >&8 || fail "the load ended: $(tail -n 3 "$LOGS/load.log")"
    MARKS=$((MARKS + 1))
    until_true "the load takes the mark $1" mark_is_taken
}
# The name may have been there before.
mark_is_taken() { [[ $(grep -c 'window ".*" begins$' "$LOGS/load.log") == "$MARKS" ]]; }

# end_load: and look for everything that was acknowledged. Fails where something is missing or there twice.
end_load() {
    local status=0
    exec 8>&-
    wait "$LOAD" || status=$?
    LOAD=''
    return "$status"
}

stop_load() { if [[ -n ${LOAD:-} ]]; then kill "$LOAD" 2>/dev/null || true; fi; }

# judge_load OPTIONS…: what lib/judge_load.py says of it.
judge_load() { python3 "$SCRIPTS/lib/judge_load.py" "$RUN/load.json" "$@"; }
