# shellcheck shell=bash
# Waiting for a condition, what Consul says of the instances, and what a facade answers.
#
# Who sources it has PATIENCE, CONSUL_URL, `show` and `fail`.

# What was answered last while something is waited for, where that tells why it does not come.
LAST_ANSWER=''

# until_true WHAT COMMAND…: waits until the command succeeds, PATIENCE seconds at most.
until_true() {
    local what=$1 end=$((SECONDS + PATIENCE))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "$what: not within $PATIENCE s${LAST_ANSWER:+; last answer: $LAST_ANSWER}"
        sleep 0.1
    done
    LAST_ANSWER=''
}

# passing SERVICE: the ids of its passing instances, one a line.
passing() {
    curl --silent --max-time 5 "$CONSUL_URL/v1/health/service/$1?passing" |
        grep -o "\"ID\":\"$1@[^\"]*\"" | cut -d'"' -f4 | sort
}
passes() { [[ $(passing "$1" | wc -l) == "$2" ]]; }

# all_pass LOGGING: two facades, that many logging instances, two messages instances.
all_pass() { passes facade-service 2 && passes logging-service "$1" && passes messages-service 2; }

show_catalog() {
    local service
    for service in facade-service logging-service messages-service; do
        show "Consul passes $service: $(passing "$service" | tr '\n' ' ')"
    done
}

# both_have ANSWER TEXT…: it is that of GET /messages, and each text stands once in each of its two lists. No text of them
# has brackets in it.
both_have() {
    local answer=$1 text list lists='^\[(\[[^]]*\]),(\[[^]]*\])\]$'
    shift
    [[ $answer =~ $lists ]] || return 1
    for list in "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"; do
        for text in "$@"; do [[ $(grep -o "\"$text\"" <<<"$list" | wc -l) == 1 ]] || return 1; done
    done
}
