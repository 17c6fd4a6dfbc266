# shellcheck shell=bash disable=SC2034 # variables that other parts read
# What runs where: the plan (names and ports), and the configuration files made from it.
#
# The plan is DIR/plan, one engine a line: NAME CLUSTER PORT, then of Consul SERVER_PORT SERF_PORT, of a member its
# PUBLIC_ADDRESS where it has one.
# It stays until the next `up` that finds nothing running, so that `start NAME` brings an
# engine back at the address that others know.

DEFAULT_LOGGING_MEMBERS=3
DEFAULT_MQ_MEMBERS=2
CONSUL_PORT=8500
LOGGING_FIRST_PORT=5701
MQ_FIRST_PORT=5711
# Below the range from which the kernel takes ports for outgoing connections, so that nobody
# gets the port of a member that is down for a moment.
FREE_PORT_FIRST=20000
FREE_PORT_COUNT=12000

declare -a ENGINES=()              # names, in the order of the plan
declare -A CLUSTER=() PORT=()      # by name
declare -A PUBLIC=()               # by name: the address that a member gives to clients, where not its own
CONSUL_SERVER_PORT='' CONSUL_SERF_PORT=''
declare -A CLAIMED=()              # ports that this run has given away

is_planned() { [[ -n ${PORT[$1]:-} ]]; }

# members CLUSTER: the names of its engines.
members() {
    local name
    for name in "${ENGINES[@]}"; do
        if [[ ${CLUSTER[$name]} == "$1" ]]; then printf '%s\n' "$name"; fi
    done
}

# addresses CLUSTER: host:port of its members, with commas.
addresses() {
    local name list=''
    for name in $(members "$1"); do list+=,127.0.0.1:${PORT[$name]}; done
    printf '%s\n' "${list#,}"
}

# --- ports ---

# Local ports of all sockets (whatever their state), one a line, in hexadecimal.
used_ports() { awk 'FNR > 1 { sub(/.*:/, "", $2); print $2 }' /proc/net/{tcp,udp}{,6} 2>/dev/null || true; }
listening_ports() { awk 'FNR > 1 && $4 == "0A" { sub(/.*:/, "", $2); print $2 }' /proc/net/tcp{,6} 2>/dev/null || true; }

is_listening() { listening_ports | grep -qix "$(printf '%04X' "$1")"; }

# free_port: sets FREE_PORT to one that no socket uses and this run has not given away.
# Another process may still take it before we bind it: who starts an engine must expect that.
free_port() {
    local used attempt
    used=$(used_ports)
    for ((attempt = 0; attempt < 1000; attempt++)); do
        FREE_PORT=$((FREE_PORT_FIRST + (RANDOM << 15 | RANDOM) % FREE_PORT_COUNT))
        [[ -n ${CLAIMED[$FREE_PORT]:-} ]] && continue
        grep -qix "$(printf '%04X' "$FREE_PORT")" <<<"$used" && continue
        CLAIMED[$FREE_PORT]=1
        return 0
    done
    die "no free port found between $FREE_PORT_FIRST and $((FREE_PORT_FIRST + FREE_PORT_COUNT - 1))"
}

# port_owner PORT: who listens there, as far as this user may know.
port_owner() {
    local owner=''
    if have ss; then
        owner=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1)
    fi
    printf '%s\n' "${owner:-another process}"
}

# --- the plan ---

# make_plan LOGGING MQ WITH_CONSUL FREE_PORTS: a new plan in memory.
make_plan() {
    local logging=$1 mq=$2 with_consul=$3 free=$4
    ENGINES=() CLUSTER=() PORT=() PUBLIC=() CLAIMED=()
    if [[ $with_consul == 1 ]]; then plan_consul "$free"; fi
    plan_cluster logging "$logging" "$LOGGING_FIRST_PORT" "$free"
    plan_cluster mq "$mq" "$MQ_FIRST_PORT" "$free"
}

plan_engine() { ENGINES+=("$1") CLUSTER[$1]=$2 PORT[$1]=$3; }

plan_consul() {
    local port=$CONSUL_PORT
    if [[ $1 == 1 ]]; then free_port && port=$FREE_PORT; fi
    plan_engine consul consul "$port"
    # Known to nobody but Consul itself, so always free ones: a second agent on the machine is no trouble.
    free_port && CONSUL_SERVER_PORT=$FREE_PORT
    free_port && CONSUL_SERF_PORT=$FREE_PORT
}

plan_cluster() {
    local cluster=$1 count=$2 port=$3 free=$4 number
    for ((number = 1; number <= count; number++, port++)); do
        if [[ $free == 1 ]]; then free_port && port=$FREE_PORT; fi
        plan_engine "$cluster-$number" "$cluster" "$port"
    done
}

save_plan() {
    local name
    for name in "${ENGINES[@]}"; do
        if [[ $name == consul ]]; then
            printf '%s %s %s %s %s\n' consul consul "${PORT[consul]}" "$CONSUL_SERVER_PORT" "$CONSUL_SERF_PORT"
        else
            printf '%s %s %s %s\n' "$name" "${CLUSTER[$name]}" "${PORT[$name]}" "${PUBLIC[$name]:-}"
        fi
    done >"$DIR/plan.new"
    mv "$DIR/plan.new" "$DIR/plan"
}

load_plan() {
    local name cluster port rest serf
    ENGINES=() CLUSTER=() PORT=() PUBLIC=()
    [[ -r "$DIR/plan" ]] || return 0
    while read -r name cluster port rest serf; do
        plan_engine "$name" "$cluster" "$port"
        if [[ $name == consul ]]; then CONSUL_SERVER_PORT=$rest CONSUL_SERF_PORT=$serf; else PUBLIC[$name]=$rest; fi
    done <"$DIR/plan"
}

# --- the files ---

config_file() {
    if [[ $1 == consul ]]; then printf '%s\n' "$DIR/conf/consul.json"; else printf '%s\n' "$DIR/conf/$1.yaml"; fi
}

write_configs() {
    local name
    mkdir -p "$DIR/conf" "$DIR/data" "$DIR/logs" "$DIR/pids"
    for name in "${ENGINES[@]}"; do
        if [[ $name == consul ]]; then consul_config; else member_config "${CLUSTER[$name]}" "${PORT[$name]}" "${PUBLIC[$name]:-}"; fi \
            >"$(config_file "$name")"
    done
    write_environment
}

# KEY=value lines for a shell (set -a; . engines.env) and for programs.
write_environment() {
    {
        if is_planned consul; then printf 'CONSUL_HTTP_ADDR=http://127.0.0.1:%s\n' "${PORT[consul]}"; fi
        printf 'HZ_LOGGING_MEMBERS=%s\n' "$(addresses logging)"
        printf 'HZ_MQ_MEMBERS=%s\n' "$(addresses mq)"
    } >"$DIR/engines.env.new"
    mv "$DIR/engines.env.new" "$DIR/engines.env"
}

# One server that is its own quorum. raft_multiplier 1: it is leader within a second or two.
consul_config() {
    cat <<JSON
{
  "node_name": "engines",
  "server": true,
  "bootstrap_expect": 1,
  "ui_config": { "enabled": true },
  "bind_addr": "127.0.0.1",
  "client_addr": "127.0.0.1",
  "data_dir": "$DIR/data/consul",
  "disable_update_check": true,
  "performance": { "raft_multiplier": 1 },
  "ports": {
    "http": ${PORT[consul]},
    "server": $CONSUL_SERVER_PORT,
    "serf_lan": $CONSUL_SERF_PORT,
    "serf_wan": -1,
    "dns": -1,
    "grpc": -1,
    "grpc_tls": -1
  }
}
JSON
}

# member_config CLUSTER PORT [PUBLIC_ADDRESS]: what every member has, and where this one is.
member_config() {
    local cluster=$1 port=$2 public=${3:-} name
    cat "$SCRIPTS/hazelcast.yaml"
    cat <<YAML
  cluster-name: $cluster
  network:
    port:
      port: $port
      auto-increment: false
${public:+    public-address: $public}
    # Or the port of a member that was killed cannot be bound again for a minute.
    reuse-address: true
    interfaces:
      enabled: true
      interfaces:
        - 127.0.0.1
    join:
      auto-detection:
        enabled: false
      multicast:
        enabled: false
      tcp-ip:
        enabled: true
        connection-timeout-seconds: 1
        member-list:
$(for name in $(members "$cluster"); do printf '          - 127.0.0.1:%s\n' "${PORT[$name]}"; done)
    rest-api:
      enabled: true
      endpoint-groups:
        CLUSTER_READ:
          enabled: false
        HEALTH_CHECK:
          enabled: true
YAML
}
