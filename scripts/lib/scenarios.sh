# shellcheck shell=bash
# What dies in each scenario of scripts/chaos.sh, and what is promised meanwhile.
#
# A scenario is called under load, when everything is whole, and returns once it has started again what it ended. It marks
# each event by the name of what it ends: see judge_load.py.

# By scenario: which posts may fail between the event and "whole again" (none, or those answered 503), how many ms an answer
# may take, for how many seconds an acknowledged text may be missing from a list after the run, and whether every instance
# lives, so that each has to answer GET /health within 1 s all the time; and how many bytes a text has. 503 is promised within
# 5 s; 500 ms are for the way.
PROMISES='
logging          none  2000   60   -       100
messages         none  2000   60   -       100
backlog          none  2000   60   -       100
facade           none  2000   60   -       100
logging-member   none  2000   60   health  100
mq-member        none  2000   60   health  100
logging-cluster  503   5500   120  health  100
mq-cluster       503   5500   120  health  100
consul           none  2000   60   health  100
consul-empty     none  2000   60   health  100
hang-logging     none  2000   60   -       100
hang-member      503   5500   60   health  100
halted-backup    503   5500   60   health  4096
rolling          none  2000   60   -       100
random           none  2000   60   -       100
'
# How soon it serves again once a cluster is back, and how soon all are registered again, in seconds.
RECOVERY_SECONDS=15
REGISTER_SECONDS=10

scenario_names() { awk 'NF { print $1 }' <<<"$PROMISES"; }
# promise SCENARIO: its line, without the name.
promise() { awk -v name="$1" '$1 == name { $1 = ""; print }' <<<"$PROMISES"; }

# broken TEXT: the scenario saw a promise broken, and goes on.
broken() { BROKEN+=(--broken "$1"); }

# --- one part dies ---

# instance_dies NAME: killed, and started again a while later.
instance_dies() {
    mark "$1"
    end_instance KILL "$1"
    sleep "$DEAD_SECONDS"
    start_instance "$1"
}

# engine_dies NAME SECONDS
engine_dies() {
    mark "engine $1"
    kill_engines "$1"
    sleep "$2"
    engines start "$1"
}

scenario_logging() { instance_dies logging-2; }
# What a messages instance has in hand is in hand for milliseconds: one kill mostly meets nothing.
scenario_messages() {
    local kill name
    for ((kill = 0; kill < MESSAGES_KILLS; kill++)); do
        name=messages-$((1 + kill % 2))
        DEAD_SECONDS=1 instance_dies "$name"
        until_true "everything is whole after $name was started again" is_whole
    done
}

# What was removed from the queue before it was stored would be gone. One instance has all that waits, and is killed as soon as
# it has delivered something, with the next ones in hand.
scenario_backlog() {
    local name turn from end
    mark messages
    for name in messages-1 messages-2; do end_instance KILL "$name"; done
    for turn in 1 2 3; do
        sleep 2 # of posts that wait in the queue; it holds 10,000 batches
        from=$(($(wc -c <"$LOGS/messages-1.log") + 1))
        RUST_LOG=svc::roles::messages=debug start_instance messages-1
        end=$((SECONDS + PATIENCE))
        # Looked for without a pause: all that waits is delivered within a second.
        until delivers messages-1 "$from"; do ((SECONDS < end)) || fail "messages-1 delivers nothing within $PATIENCE s"; done
        end_instance KILL messages-1
    done
    sleep 1 # or its port may still be taken
    for name in messages-1 messages-2; do start_instance "$name"; done
}
# delivers NAME FROM: its log says so, from this byte on.
delivers() { [[ $(tail --bytes "+$2" "$LOGS/$1.log" | grep --count ' delivered ') -gt 0 ]]; }

scenario_facade() { instance_dies facade-2; }
scenario_logging_member() { engine_dies logging-2 "$DEAD_SECONDS"; }
scenario_mq_member() { engine_dies mq-2 "$DEAD_SECONDS"; }
scenario_consul() { engine_dies consul "$CONSUL_SECONDS"; }

scenario_consul_empty() {
    mark 'engine consul'
    kill_engines consul
    sleep "$DEAD_SECONDS"
    engines start consul --purge
    populate_kv
    local end=$((SECONDS + REGISTER_SECONDS))
    until all_pass 3; do
        if ((SECONDS >= end)); then broken "not all registered again within $REGISTER_SECONDS s" && break; fi
        sleep 0.1
    done
}

# --- a whole cluster dies ---

# cluster_dies NAME: failures are allowed until its members are back, and for as long as recovery may take.
cluster_dies() {
    local names
    mapfile -t names < <(members "$1")
    mark "engines $1"
    kill_engines "${names[@]}"
    sleep "$DEAD_SECONDS"
    engines up
    recover
}
recover() {
    mark recovery
    sleep "$RECOVERY_SECONDS"
}

scenario_logging_cluster() { cluster_dies logging; }
scenario_mq_cluster() { cluster_dies mq; }

# --- one part hangs ---

scenario_hang_logging() {
    mark logging-2
    signal_instance STOP logging-2
    sleep 10
    signal_instance CONT logging-2
}

scenario_hang_member() {
    mark 'engine mq-2'
    signal_engine STOP mq-2
    sleep 20
    signal_engine CONT mq-2
    recover
}

# What was acknowledged while its copy could not be confirmed would be gone. The texts are so long that the copies do not all
# wait in the halted member's socket, where it finds them later. In one of the two turns the queue is the killed member's.
scenario_halted_backup() {
    local turn
    for turn in 'mq-1 mq-2' 'mq-2 mq-1'; do
        mark "engine ${turn%% *}"
        signal_engine STOP "${turn#* }"
        sleep 1 # of posts that wait for the copy
        kill_engines "${turn%% *}"
        signal_engine CONT "${turn#* }"
        sleep "$DEAD_SECONDS"
        engines start "${turn%% *}"
        recover
        until_true "everything is whole after ${turn%% *} was started again" is_whole
    done
}

# --- all of them, one after the other ---

scenario_rolling() {
    local name
    for name in "${INSTANCES[@]}"; do
        mark "$name"
        end_instance TERM "$name"
        start_instance "$name"
        until_true "everything is whole after $name was started again" is_whole
    done
}

# Each can die alone; a member too, since all is whole whenever the next one is chosen.
scenario_random() {
    local events=0 end=$((SECONDS + MINUTES * 60)) victims victim name
    # Members have the names of instances.
    victims=("${INSTANCES[@]/#/instance }" "${ENGINES[@]/#/engine }")
    RANDOM=$SEED
    while ((SECONDS < end)); do
        victim=${victims[RANDOM % ${#victims[@]}]} name=${victim#* }
        case $victim in
            engine*) engine_dies "$name" "$((1 + RANDOM % 5))" ;;
            *) instance_dies "$name" ;;
        esac
        until_true "everything is whole after $victim was started again" is_whole
        events=$((events + 1))
    done
    say "random: $events kills by --seed $SEED"
}
