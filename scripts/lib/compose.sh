# shellcheck shell=bash
# Ways to ask a running compose system: what the checks are written with.

# How long a condition is waited for, in seconds: on two cores, five JVMs start at once.
PATIENCE=120
CONSUL_URL=http://127.0.0.1:8500

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

# What the settings in Consul say.
key() { curl --silent --max-time 5 "$CONSUL_URL/v1/kv/$1?raw"; }

# --- load through both facades ---

# shellcheck disable=SC2034 # for lib/load.sh
FACADES=(http://127.0.0.1:8001 http://127.0.0.1:8002)
LOAD_BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug/examples/load

# prepare_load: the load generator, built.
prepare_load() {
    need_tool python3 python3
    (cd "$ROOT" && cargo build --quiet --locked --example load)
}
