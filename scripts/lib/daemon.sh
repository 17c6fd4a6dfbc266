# shellcheck shell=bash
# A Docker engine for a check: the one that runs, or one of our own that ends with us.

# How long a daemon may take to start, and a pull that fails to say so, in seconds.
DAEMON_SECONDS=60
PULL_SECONDS=120

# start_daemon FOLDER OPTIONS…: dockerd with its images in FOLDER, everything else in RUN; sets DOCKER_HOST and DAEMON, its pid.
start_daemon() {
    local folder=$1 end=$((SECONDS + DAEMON_SECONDS))
    shift
    need_tool dockerd docker.io
    mkdir -p "$folder" "$RUN"
    dockerd --data-root "$folder" --exec-root "$RUN/exec" --pidfile "$RUN/pid" --host "unix://$RUN/docker.sock" "$@" \
        >"$LOGS/dockerd.log" 2>&1 &
    DAEMON=$!
    export DOCKER_HOST=unix://$RUN/docker.sock
    until docker info >/dev/null 2>&1; do
        if ! kill -0 "$DAEMON" 2>/dev/null || ((SECONDS >= end)); then
            tail -n 20 "$LOGS/dockerd.log" >&2
            die 'the Docker daemon does not start: see above' 'it needs root and a kernel with overlayfs, bridges and iptables'
        fi
        sleep 0.2
    done
}

stop_daemon() {
    if [[ -z ${DAEMON:-} ]]; then return 0; fi
    kill "$DAEMON" 2>/dev/null || true
    wait "$DAEMON" || true
    DAEMON=''
    if [[ -e $RUN/iptables ]]; then
        iptables-restore <"$RUN/iptables"
        if [[ ! -e $RUN/had-bridge ]]; then ip link delete docker0 2>/dev/null || true; fi
    fi
}

# start_host_daemon: one with the machine's network. The rules and the bridge that it leaves behind go with stop_daemon.
start_host_daemon() {
    iptables-save >"$RUN/iptables"
    if ip link show docker0 >/dev/null 2>&1; then touch "$RUN/had-bridge"; fi
    start_daemon "$CACHE_DIR/docker-real"
}

# can_pull IMAGE: whether the daemon gets images from a registry.
can_pull() { timeout "$PULL_SECONDS" docker pull --quiet "$1" >"$LOGS/pull.log" 2>&1; }
