# shellcheck shell=bash
# Waiting for a condition, and what Consul says of the instances.
#
# Who sources it has PATIENCE, CONSUL_URL and `fail`.

# until_true WHAT COMMAND…: waits until the command succeeds, PATIENCE seconds at most.
until_true() {
    local what=$1 end=$((SECONDS + PATIENCE))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "$what: not within $PATIENCE s"
        sleep 0.2
    done
}

# passing SERVICE: the ids of its passing instances, one a line.
passing() {
    curl --silent --max-time 5 "$CONSUL_URL/v1/health/service/$1?passing" |
        grep -o "\"ID\":\"$1@[^\"]*\"" | cut -d'"' -f4 | sort
}
passes() { [[ $(passing "$1" | wc -l) == "$2" ]]; }

# all_pass LOGGING: two facades, that many logging instances, two messages instances.
all_pass() { passes facade-service 2 && passes logging-service "$1" && passes messages-service 2; }
