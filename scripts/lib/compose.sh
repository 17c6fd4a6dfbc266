# shellcheck shell=bash
# Ways to ask a running compose system: what the checks are written with.

# How long a condition is waited for, in seconds: on two cores, five JVMs start at once.
PATIENCE=120

step() { printf '\n== %s\n' "$*"; }
show() { printf '   %s\n' "$*"; }
fail() {
    printf '\ncompose-check: %s\n' "$*" >&2
    docker ps --all --format '{{.Names}}\t{{.Status}}' >&2 || true
    keep_logs
    exit 1
}

# keep_logs: what the containers said, where it is still there after they are gone.
keep_logs() {
    local name
    rm -rf "$CACHE_DIR/compose-check-logs"
    mkdir -p "$CACHE_DIR/compose-check-logs"
    for name in $(docker ps --all --format '{{.Names}}' 2>/dev/null); do
        docker logs --timestamps "$name" >"$CACHE_DIR/compose-check-logs/$name.log" 2>&1 || true
    done
    printf 'what the containers said is in %s\n' "$CACHE_DIR/compose-check-logs" >&2
}

# need_compose: sets COMPOSE to the command, v2 where it is there, else 1.29.
need_compose() {
    if docker compose version >/dev/null 2>&1; then COMPOSE=(docker compose); else
        need_tool docker-compose docker-compose
        COMPOSE=(docker-compose)
    fi
}

compose() { (cd "$ROOT" && "${COMPOSE[@]}" "$@"); }

# until_true WHAT COMMAND…: waits until the command succeeds.
until_true() {
    local what=$1 end=$((SECONDS + PATIENCE))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "$what: not within $PATIENCE s"
        sleep 0.2
    done
}

# --- containers ---

health_of() { docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$1" 2>/dev/null; }
is_healthy() { [[ $(health_of "$1") == healthy ]]; }
healthy() { local name; for name in "$@"; do is_healthy "$name" || return 1; done; }

# cluster_is_whole MEMBER SIZE: its cluster has that many members, and every backup.
cluster_is_whole() {
    local state
    state=$(docker exec "$1" curl --silent --max-time 2 http://127.0.0.1:5701/hazelcast/health 2>/dev/null) || return 1
    [[ $state == *'"clusterSafe":true'* && $state == *"\"clusterSize\":$2"* ]]
}
clusters_are_whole() { cluster_is_whole hazelcast-logging-1 3 && cluster_is_whole hazelcast-mq-1 2; }

# --- what Consul says ---

# passing SERVICE: the ids of its passing instances, one a line.
passing() {
    curl --silent --max-time 5 "http://127.0.0.1:8500/v1/health/service/$1?passing" |
        grep -o "\"ID\":\"$1@[^\"]*\"" | cut -d'"' -f4 | sort
}
passes() { [[ $(passing "$1" | wc -l) == "$2" ]]; }
all_pass() { passes facade-service 2 && passes logging-service "$1" && passes messages-service 2; }
show_catalog() {
    local service
    for service in facade-service logging-service messages-service; do
        show "Consul passes $service: $(passing "$service" | tr '\n' ' ')"
    done
}
key() { curl --silent --max-time 5 "http://127.0.0.1:8500/v1/kv/$1?raw"; }

# --- load: 8 clients that post without pause through both facades ---

FACADES=(http://127.0.0.1:8001 http://127.0.0.1:8002)

# prepare_load: the load generator, built.
prepare_load() {
    need_tool python3 python3
    (cd "$ROOT" && cargo build --quiet --locked --example load)
}

start_load() {
    local url arguments=()
    for url in "${FACADES[@]}"; do arguments+=(--url "$url"); done
    mkfifo "$RUN/marks"
    "${CARGO_TARGET_DIR:-$ROOT/target}/debug/examples/load" "${arguments[@]}" --clients 8 --stdin --json --verify-within 60s \
        <"$RUN/marks" >"$RUN/load.json" 2>"$LOGS/load.log" &
    LOAD=$!
    exec 8>"$RUN/marks"
}

# mark NAME: what fails from now on failed by that.
mark() {
    printf '%s\n' "$1" >&8 || fail "the load ended: $(tail -n 3 "$LOGS/load.log")"
    until_true "the load takes the mark $1" grep -q "window \"$1\" begins" "$LOGS/load.log"
}

# end_load: and look for everything that was acknowledged.
end_load() {
    exec 8>&-
    wait "$LOAD" || { tail -n 5 "$LOGS/load.log" >&2; judge_load; fail 'something acknowledged is missing or there twice'; }
    LOAD=''
}

stop_load() { if [[ -n ${LOAD:-} ]]; then kill "$LOAD" 2>/dev/null || true; fi; }

# judge_load: a table of the windows; fails where a post failed through a facade that was not the one killed.
judge_load() { python3 "$SCRIPTS/lib/judge_load.py" "$RUN/load.json" || fail 'posts failed through a facade that was not killed'; }
