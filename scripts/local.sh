#!/usr/bin/env bash
# The whole system on real engines in one tmux window: a pane per instance, and a shell. See `scripts/local.sh help`.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
PROGRAM=local
# shellcheck source-path=SCRIPTDIR
. "$SCRIPTS/lib/common.sh"
. "$SCRIPTS/lib/tools.sh"

SESSION=svc
# Names and ports, as `svc up` has them.
NAMES=(logging-1 logging-2 logging-3 messages-1 messages-2 facade-1 facade-2)
declare -A PORT=(
    [logging-1]=8101 [logging-2]=8102 [logging-3]=8103 [messages-1]=8181 [messages-2]=8182 [facade-1]=8001 [facade-2]=8002
)
START_SECONDS=60 # for an instance to be healthy
STOP_SECONDS=12  # for an instance to end: its clean stop takes 10 at most
SVC_ENGINES_DIR=$(realpath -m -- "${SVC_ENGINES_DIR:-$ROOT/.engines}")
export SVC_ENGINES_DIR

usage() {
    cat <<'HELP'
The system of the README's "In several terminals" in one tmux window, a pane for each of 3 logging (8101…),
2 messages (8181…) and 2 facades (8001…), and one with a shell that says what to try.

usage: scripts/local.sh [COMMAND] [--free-ports]

  up      builds the executable, starts the engines (scripts/engines.sh up), writes the settings (those in
          Consul are kept, unless they name members of other engines) and opens the session 'svc': attached
          on a terminal, else in the background. This is what is done without a COMMAND. The pane of an
          instance that ends stays, so that one sees what it said; tmux respawn-pane starts it again there
  down    stops the instances cleanly, then the engines (scripts/engines.sh down: Consul's data and the logs
          of the engines stay), and ends the session

  --free-ports   of up: engines and instances take ports that are free now

environment
  SVC_BIN           the executable; without it, cargo builds target/release/svc
  SVC_ENGINES_DIR   folder of the engines, default .engines in the checkout
  SVC_TMUX_SOCKET   name of the tmux server's socket (tmux -L), default the usual one

It needs tmux 3.0 or later (Debian: apt-get install tmux) and what the engines need.
HELP
}

tm() { tmux ${SVC_TMUX_SOCKET:+-L "$SVC_TMUX_SOCKET"} "$@"; }
session_runs() { tm has-session -t "=$SESSION" 2>/dev/null; }
# Another session may have the name.
session_is_ours() { session_runs && [[ -n $(tm list-panes -s -t "=$SESSION" -f '#{@instance}') ]]; }
attach_command() { printf '%s\n' "tmux ${SVC_TMUX_SOCKET:+-L $SVC_TMUX_SOCKET }attach -t $SESSION"; }

# --- the environment of what runs here ---

# What a shell, or tmux's server, may have for other work, and roles would take for theirs.
OTHERS=(
    PORT SVC_HOST SVC_ADVERTISE SVC_LOCAL SVC_WAIT HZ_NETWORK_PUBLICADDRESS CONSUL_HTTP_ADDR CONSUL_HOST CONSUL_PORT
    CONSUL_HTTP_TOKEN CONSUL_CACERT CONSUL_CLIENT_CERT CONSUL_CLIENT_KEY CONSUL_ESSENTIAL_KEY
)
CLEAN=(env)
for variable in "${OTHERS[@]}"; do CLEAN+=(-u "$variable"); done

# write_settings: populate-kv with the addresses of the engines, and nothing else that the environment says.
write_settings() {
    local options=()
    # Consul may remember the members of an earlier run, which had other ports.
    if ! has_setting hz_logging_members HZ_LOGGING_MEMBERS || ! has_setting hz_mq_members HZ_MQ_MEMBERS; then
        options=(--overwrite)
    fi
    (
        unset "${!HZ_@}"
        set -a
        # shellcheck disable=SC1091
        . "$SVC_ENGINES_DIR/engines.env"
        "${CLEAN[@]}" CONSUL_HTTP_ADDR="$CONSUL" "$SVC_BIN" populate-kv "${options[@]}"
    ) || die "the settings could not be written" "the engines run; end them by: scripts/local.sh down"
}

# engine_address VARIABLE: what the engines say of where they are.
engine_address() { sed -n "s/^$1=//p" "$SVC_ENGINES_DIR/engines.env"; }

# has_setting KEY VARIABLE: it is in Consul, and names the engines.
has_setting() {
    [[ $(curl --silent --fail --noproxy '*' --max-time 5 "$CONSUL/v1/kv/$1?raw") == "$(engine_address "$2")" ]]
}

# --- panes: PANE[name], ADDRESS[name] ---

declare -A PANE=() ADDRESS=()

# open_window: a pane for each instance and one for the shell, which all wait. So each has its size before anything is
# written in it: what is in a pane that shrinks later moves out of sight.
open_window() {
    local name last rows=0 columns=0 wait=("${CLEAN[@]}" cat)
    if [[ -t 0 ]]; then read -r rows columns < <(stty size); fi
    ((rows >= 24 && columns >= 80)) || rows=60 columns=200
    last=$(tm new-session -d -P -F '#{pane_id}' -s "$SESSION" -n "$SESSION" -x "$columns" -y "$rows" -- "${wait[@]}") ||
        die "tmux could not open the session '$SESSION'" "the engines run; end them by: scripts/local.sh down"
    tm set-option -w -t "$last" remain-on-exit on
    tm set-option -w -t "$last" pane-border-status top
    tm set-option -w -t "$last" pane-border-format ' #{?@label,#{E:@label},#{@instance}}#{?pane_dead, has ended,} '
    for name in "${NAMES[@]}"; do
        PANE[$name]=$last
        tm set-option -p -t "$last" @instance "$name"
        last=$(tm split-window -d -P -F '#{pane_id}' -t "$last" -- "${wait[@]}")
        # Or there is soon no room for the next one.
        tm select-layout -t "$last" tiled
    done
    PANE[shell]=$last
    tm set-option -p -t "$last" remain-on-exit off
    label shell shell
    tm select-pane -t "$last"
}

# run_in NAME COMMAND…: in its pane, instead of what runs there.
run_in() {
    local pane=${PANE[$1]}
    shift
    tm respawn-pane -k -t "$pane" -c "$ROOT" -- "${CLEAN[@]}" "CONSUL_HTTP_ADDR=$CONSUL" "$@"
}

label() { tm set-option -p -t "${PANE[$1]}" @label "$2"; }

start_instances() {
    local name port
    for name in "${NAMES[@]}"; do
        port=${PORT[$name]}
        if [[ $FREE_PORTS == 1 ]]; then port=0; else label "$name" "$name :$port"; fi
        # What runs there is its first line: also since tmux moves that out of sight where the instance ends.
        # shellcheck disable=SC2016 # for the shell in the pane
        run_in "$name" bash -c 'printf "\$ %s\n" "$1"; shift; exec "$@"' "$name" \
            "${SVC_BIN#"$ROOT/"} ${name%-*} --port $port" "$SVC_BIN" "${name%-*}" --port "$port"
    done
}

pid_of() { tm display-message -p -t "${PANE[$1]}" '#{pane_pid}'; }
has_ended() { [[ $(tm display-message -p -t "${PANE[$1]}" '#{pane_dead}') == 1 ]]; }

# find_address NAME: sets ADDRESS[name] from the line of its pane that says where it listens.
find_address() {
    ADDRESS[$1]=$(tm capture-pane -p -J -S - -t "${PANE[$1]}" |
        sed -n '/listening.* address=/ { s/.* address=\([0-9.:]*\).*/\1/p; q }')
    [[ -n ${ADDRESS[$1]} ]]
}
is_healthy() { find_address "$1" && "$SVC_BIN" health "http://${ADDRESS[$1]}" 2>/dev/null; }

# await_instances: waits until each is healthy. Sets FAILED to the names of those that are not.
await_instances() {
    local name deadline
    FAILED=()
    deadline=$(($(uptime_seconds) + START_SECONDS))
    for name in "${NAMES[@]}"; do
        until is_healthy "$name"; do
            if has_ended "$name" || (($(uptime_seconds) >= deadline)); then
                FAILED+=("$name")
                break
            fi
            sleep 0.1
        done
        if [[ $FREE_PORTS == 1 ]]; then label_free "$name"; fi
    done
}

# label_free NAME: the port is that of this process only; the next one in this pane takes another and says so.
label_free() {
    label "$1" "$1#{?#{==:#{pane_pid},$(pid_of "$1")}, :${ADDRESS[$1]##*:},}"
}

# --- what a person is told ---

guide() {
    local tmux="tmux ${SVC_TMUX_SOCKET:+-L $SVC_TMUX_SOCKET }" prefix
    prefix=$(tm show-options -gv prefix)
    cat <<GUIDE
Consul, and its page, is at $CONSUL. Try:
  curl -X POST 'http://${ADDRESS[facade-1]}/message?text=hello'
  curl http://${ADDRESS[facade-2]}/messages
  ${SVC_BIN#"$ROOT/"} status
  kill -9 $(pid_of logging-1)    # logging-1: post and read again
  ${tmux}respawn-pane -t ${PANE[logging-1]}    # starts it again
  scripts/local.sh down    # ends all of it
$prefix, then an arrow: another pane; z: this pane large, or small;
d: leave it running. Ctrl-C stops the instance of a pane.
GUIDE
}

open_shell() {
    local here=("SVC_ENGINES_DIR=$SVC_ENGINES_DIR" ${SVC_TMUX_SOCKET:+"SVC_TMUX_SOCKET=$SVC_TMUX_SOCKET"})
    # shellcheck disable=SC2016 # for the shell in the pane
    run_in shell env "${here[@]}" bash -c 'printf "%s\n" "$1"; exec "${SHELL:-bash}"' guide "$1"
}

show_session() {
    if [[ ! -t 0 || ! -t 1 ]]; then
        printf '%s\n' "$1"
        say "it runs in the background; to see it: $(attach_command)"
    elif [[ -z ${TMUX:-} ]]; then
        tm attach-session -t "=$SESSION"
    elif [[ -z ${SVC_TMUX_SOCKET:-} ]]; then
        tm switch-client -t "=$SESSION"
    else
        say "to see it, in a terminal outside of tmux: $(attach_command)"
    fi
}

# --- commands ---

command_up() {
    local text
    need_tool tmux tmux
    if session_runs; then
        die "a tmux session '$SESSION' runs already" "look at it: $(attach_command)" \
            "or end it first: scripts/local.sh down, or where it is not of this script: tmux kill-session -t $SESSION"
    fi
    if [[ -z ${SVC_BIN:-} ]]; then
        (cd "$ROOT" && cargo build --release --locked)
        SVC_BIN=$ROOT/target/release/svc
    fi
    SVC_BIN=$(realpath -- "$SVC_BIN")
    if [[ $FREE_PORTS == 1 ]]; then "$SCRIPTS/engines.sh" up --free-ports; else "$SCRIPTS/engines.sh" up; fi
    CONSUL=$(engine_address CONSUL_HTTP_ADDR)
    write_settings
    open_window
    start_instances
    await_instances
    text=$(guide)
    open_shell "$text"
    if ((${#FAILED[@]} > 0)); then say "not healthy: ${FAILED[*]}; the pane of each shows what it said"; fi
    show_session "$text"
    ((${#FAILED[@]} == 0))
}

# instances DEAD: pid, name and exit code (none where it was killed) of each instance that has ended (1) or runs (0).
instances() {
    tm list-panes -s -t "=$SESSION" -f "#{&&:#{@instance},#{==:#{pane_dead},$1}}" \
        -F '#{pane_pid} #{@instance} #{pane_dead_status}'
}

# signal_instances SIGNAL: to each that runs.
signal_instances() {
    local pid
    while read -r pid _; do kill "-$1" "$pid" 2>/dev/null || true; done < <(instances 0)
}

# have_ended PID…: and tmux knows their exit codes. It may have missed the signal that tells it of one (a tmux that
# accounts for logins by libutempter turns it off for a moment whenever a pane ends), and so is told again.
have_ended() {
    local pid
    kill -CHLD "$(tm display-message -p -t "=$SESSION:" '#{pid}')"
    for pid in "$@"; do if [[ -e /proc/$pid ]]; then return 1; fi; done
}

# stop_instances: each is asked to stop, and killed where it does not; says how each ended that was asked.
stop_instances() {
    local asked pid status name deadline killed=0
    mapfile -t asked < <(instances 0 | cut -d' ' -f1)
    signal_instances TERM
    deadline=$(($(uptime_seconds) + STOP_SECONDS))
    until have_ended "${asked[@]}"; do
        if ((killed == 0 && $(uptime_seconds) >= deadline)); then
            say "instances that did not end within $STOP_SECONDS s of SIGTERM are killed"
            signal_instances KILL
            killed=1
        fi
        sleep 0.05
    done
    while read -r pid name status; do
        if [[ " ${asked[*]} " != *" $pid "* ]]; then continue; fi
        if [[ $status == 0 ]]; then say "$name has stopped"; else say "$name did not stop cleanly (exit code ${status:-none, it was killed})"; fi
    done < <(instances 1)
}

command_down() {
    local is_open=0
    # It may be called in a pane of the session.
    trap '' HUP
    if have tmux && session_is_ours; then is_open=1; fi
    if [[ $is_open == 1 ]]; then stop_instances; fi
    "$SCRIPTS/engines.sh" down
    say "the engines have stopped"
    if [[ $is_open == 1 ]]; then tm kill-session -t "=$SESSION"; fi
}

# --- main ---

COMMAND=up FREE_PORTS=0
for argument in "$@"; do
    case $argument in
        up | down | help) COMMAND=$argument ;;
        --free-ports) FREE_PORTS=1 ;;
        -h | --help) COMMAND=help ;;
        *) usage >&2 && exit 2 ;;
    esac
done

case $COMMAND in
    help) usage ;;
    *) "command_$COMMAND" ;;
esac
