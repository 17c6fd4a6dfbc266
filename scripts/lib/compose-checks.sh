# shellcheck shell=bash
# What is checked, in the order of `check_all`.

ROLES=(facade-service-1 facade-service-2 logging-service-1 logging-service-2 logging-service-3 messages-service-1 messages-service-2)
MEMBERS=(hazelcast-logging-1 hazelcast-logging-2 hazelcast-logging-3 hazelcast-mq-1 hazelcast-mq-2)
CONTAINERS=("${ROLES[@]}" consul "${MEMBERS[@]}")
FILES=(--file docker-compose.yaml)
SCALED=(--file docker-compose.yaml --file docker-compose.scale.yaml)
# A project of its own, whatever the folder's name is: what is taken down with its volumes is never somebody's system.
export COMPOSE_PROJECT_NAME=svc-compose-check
# What the image may add to its base, in MB of 1,000,000 bytes.
MOST_MEGABYTES=40

check_all() {
    check_nothing_runs
    check_files
    check_image
    STARTED=1
    check_walkthrough
    check_told_addresses
    check_populate_again
    check_kills
    check_wrong_address
    check_down "${FILES[@]}"
    check_scale
    check_down "${SCALED[@]}"
    step 'All of it held'
}

check_nothing_runs() {
    local name
    for name in "${CONTAINERS[@]}"; do
        if docker container inspect "$name" >/dev/null 2>&1; then
            die "a container $name exists already" 'take it down first: docker compose down'
        fi
    done
}

take_down() { compose "${SCALED[@]}" --profile tools down --volumes --remove-orphans --timeout 5; }

# check_down FILES…: the system is taken down, and nothing of it is left.
check_down() {
    step 'Take it down: no container, network or volume is left'
    compose "$@" down --volumes >"$LOGS/down.log" 2>&1 || { cat "$LOGS/down.log"; fail 'it is not taken down'; }
    local left
    left=$(
        docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
        docker network ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
        docker volume ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
    )
    [[ -z $left ]] || fail "something is left: $left"
}

# --- before it runs ---

check_files() {
    step "The compose files, read by $("${COMPOSE[@]}" version --short): no warning"
    local words
    for words in 'config' '--profile tools config' '--file docker-compose.yaml --file docker-compose.scale.yaml config'; do
        # shellcheck disable=SC2086 # words on purpose
        compose $words >"$LOGS/config.yaml" 2>"$LOGS/config.log" || { cat "$LOGS/config.log" >&2; fail "$words failed"; }
        [[ ! -s $LOGS/config.log ]] || { cat "$LOGS/config.log" >&2; fail "$words warns"; }
        show "$words: $(grep -c . "$LOGS/config.yaml") lines"
    done
}

check_image() {
    step 'Build the image'
    local begun=$SECONDS base all
    if [[ $SVC_IMAGES == standin ]]; then keep_stages; fi
    compose build >"$LOGS/build.log" 2>&1 || { tail -n 30 "$LOGS/build.log" >&2; fail 'the image is not built'; }
    base=$(image_bytes "$(dockerfile_image debian)") all=$(image_bytes svc)
    show "built in $((SECONDS - begun)) s; it adds $(((all - base) / 1000000)) MB to its base of $((base / 1000000)) MB"
    (((all - base) < MOST_MEGABYTES * 1000000)) || fail "that is more than $MOST_MEGABYTES MB"
    show "$(docker run --rm svc --version), as user $(docker image inspect --format '{{.Config.User}}' svc)"
    [[ $(docker image inspect --format '{{.Config.User}}' svc) == 10001:10001 ]] || fail 'the image runs as root'
    docker run --rm svc help >/dev/null || fail 'svc help fails in a container'
}

# keep_stages: what the image is built in has a name, so that the next run finds it, and only what the last run made stays.
keep_stages() {
    local stage
    for stage in dependencies build; do
        DOCKER_BUILDKIT=0 docker build --quiet --target "$stage" --tag "svc-standin/$stage" "$ROOT" >"$LOGS/build.log" 2>&1 ||
            { tail -n 30 "$LOGS/build.log" >&2; fail "the stage $stage is not built"; }
    done
    docker image prune --force >/dev/null
}

image_bytes() { docker image inspect --format '{{.Size}}' "$1"; }

# --- the README's commands ---

# readme_commands: the lines of the first block of commands in the section "In containers".
readme_commands() {
    awk '/^## /{ here = ($0 == "## In containers") } here && /^```/{ block = !block && !done; done = done || !block; next }
         here && block' "$ROOT/README.md" | grep -v '^ *$'
}

check_walkthrough() {
    local line posted=()
    step 'The commands of the README, word for word'
    mapfile -t lines < <(readme_commands)
    ((${#lines[@]} >= 8)) || fail 'the README has no walk-through of containers'
    for line in "${lines[@]}"; do
        if [[ $line == *'compose down'* ]]; then break; fi
        case $line in
            *'/message?text='*) posted+=("$(sed 's/.*text=\([a-z]*\).*/\1/' <<<"$line")") && readme_line "$line" '"identifier"' ;;
            *'/messages'*) readme_read "$line" "${posted[@]}" ;;
            *) readme_line "$line" '' ;;
        esac
        if [[ $line == *'compose up'* ]]; then
            until_true 'all containers are healthy' healthy "${CONTAINERS[@]}"
            until_true 'Consul passes all instances' all_pass 3
            show_catalog
        fi
    done
    ((${#posted[@]} >= 2)) || fail 'the README posts nothing'
    until_true 'the clusters are whole again' clusters_are_whole
    until_true 'all containers are healthy' healthy "${CONTAINERS[@]}"
    until_true 'Consul passes all instances' all_pass 3
}

# run_line LINE: as typed by a person in the checkout.
run_line() {
    (
        cd "$ROOT"
        # shellcheck disable=SC2329 # called by the line
        docker() {
            if [[ $1 == compose ]]; then shift && command "${COMPOSE[@]}" "$@"; else command docker "$@"; fi
        }
        eval "$1"
    )
}

# readme_line LINE PART: runs it; what it prints has PART in it.
readme_line() {
    local output
    printf '   $ %s\n' "$1"
    output=$(run_line "$1" 2>"$LOGS/line.log") || { cat "$LOGS/line.log" >&2; fail "this failed: $1"; }
    if [[ -n $output ]]; then sed 's/^/     /' <<<"$output"; fi
    [[ $output == *"$2"* ]] || fail "the answer has no $2"
}

# readme_read LINE TEXT…: both lists hold each text exactly once; at once, or when what was on its way has arrived.
readme_read() {
    local line=$1 end=$((SECONDS + 10)) answer
    shift
    printf '   $ %s\n' "$line"
    while true; do
        answer=$(run_line "$line" 2>"$LOGS/line.log") || answer=''
        if both_have "$answer" "$@"; then break; fi
        ((SECONDS < end)) || fail "not in both lists: $* in $answer"
        sleep 0.1
    done
    printf '     %s\n' "$answer"
}

# --- addresses ---

# connected_to CONTAINER ADDRESS…: its log says that it is connected to the member at each of these.
connected_to() {
    local container=$1 log member address
    shift
    log=$(docker logs "$container" 2>&1)
    for member in "$@"; do
        address=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$member")
        grep -q "connected to a Hazelcast member.*address=$address:5701" <<<"$log" || return 1
    done
}

check_told_addresses() {
    step 'Each role reaches every member of its cluster at the address that the cluster tells'
    local role
    for role in logging-service-1 logging-service-2 logging-service-3; do
        until_true "$role is connected to all members" connected_to "$role" hazelcast-logging-{1,2,3}
    done
    for role in facade-service-1 facade-service-2 messages-service-1 messages-service-2; do
        until_true "$role is connected to all members" connected_to "$role" hazelcast-mq-{1,2}
    done
    show '3 logging instances to 3 members, 2 facades and 2 messages instances to 2'
}

check_wrong_address() {
    step 'A member with a public address that leads nowhere: the roles say so, and go on'
    # An address for documentation, RFC 5737.
    override 'services: {hazelcast-mq-2: {environment: {HZ_NETWORK_PUBLICADDRESS: "192.0.2.1:5701"}}}'
    compose "${FILES[@]}" --file "$OVERRIDE" up --detach --no-deps hazelcast-mq-2 >"$LOGS/up.log" 2>&1 ||
        { cat "$LOGS/up.log" >&2; fail 'hazelcast-mq-2 does not start'; }
    until_true 'the cluster is whole' cluster_is_whole hazelcast-mq-1 2
    until_true 'facade-service-1 names the address' says facade-service-1 'the cluster lists.*public address.*192.0.2.1:5701'
    show "$(docker logs facade-service-1 2>&1 | grep 'the cluster lists.*public address.*192.0.2.1:5701' | tail -n 1 | cut -c1-400)"
    [[ $(curl --silent --max-time 6 --request POST 'http://127.0.0.1:8001/message?text=still') == *'"identifier"'* ]] ||
        fail 'a post failed meanwhile'
}

# Read to its end, or the log's writer would fail on a closed pipe.
says() { [[ $(docker logs "$1" 2>&1 | grep -c "$2") -gt 0 ]]; }

# override TEXT: sets OVERRIDE, one more compose file.
override() {
    OVERRIDE=$RUN/override.yaml
    printf '%s\n' "$1" >"$OVERRIDE"
}

# --- settings ---

check_populate_again() {
    step 'A key edited in the UI is kept by populate-kv, and named'
    local output edited before
    before=$(pinned HZ_LOGGING_MEMBERS)
    # The same members in another order, since a key takes effect at once.
    edited=$(tr , '\n' <<<"$before" | tac | paste -sd ,)
    curl --silent --fail --request PUT --data "$edited" "$CONSUL_URL/v1/kv/hz_logging_members" >/dev/null
    output=$(compose run --rm populate-kv 2>&1) || { printf '%s\n' "$output" >&2; fail 'populate-kv failed'; }
    output=$(grep hz_logging_members <<<"$output") || fail 'populate-kv does not name hz_logging_members'
    show "$output"
    [[ $output == *"$edited"* && $output == *"$before"* ]] || fail 'populate-kv does not say both values'
    [[ $(key hz_logging_members) == "$edited" ]] || fail 'populate-kv replaced a key that was edited'
}

# --- kills ---

check_kills() {
    step 'Kill every container once, under load through both facades'
    start_load --verify-within 60s
    sleep 2 # of load before the first kill: what is measured, not waited for
    local name
    for name in "${CONTAINERS[@]}"; do kill_and_start "$name"; done
    end_load || {
        tail -n 5 "$LOGS/load.log" >&2
        judge_load || true
        fail 'something acknowledged is missing or there twice'
    }
    judge_load || fail 'posts failed through a facade that was not killed'
}

kill_and_start() {
    local name=$1
    mark "$name"
    docker container kill "$name" >/dev/null
    sleep 3
    docker start "$name" >/dev/null
    until_true "$name is healthy again" is_healthy "$name"
    case $name in
        hazelcast-*) until_true 'the clusters are whole again' clusters_are_whole ;;
        *) until_true 'Consul passes all instances' all_pass 3 ;;
    esac
}

# --- scale ---

check_scale() {
    step 'Consul starts 20 s late, and five logging instances by --scale'
    local begun=$SECONDS
    override 'services: {consul: {entrypoint: [sh, -c, "sleep 20; exec consul \"$$@\"", consul]}}'
    # So that a facade says which instance logged what.
    RUST_LOG=svc=debug compose "${SCALED[@]}" --file "$OVERRIDE" up --detach --scale logging-service=5 >"$LOGS/up.log" 2>&1 ||
        { cat "$LOGS/up.log" >&2; fail 'it does not come up'; }
    until_true 'Consul passes five logging instances, and the others' all_pass 5
    show "all registered $((SECONDS - begun)) s after the start"
    show_catalog
    posts_reach_all
}

# posts_reach_all: a facade logs through every one of the five.
posts_reach_all() {
    local id posts=0 end=$((SECONDS + PATIENCE)) missing=5
    while ((missing > 0)); do
        ((SECONDS < end)) || fail "$missing of five logging instances got no post"
        for _ in {1..20}; do
            posts=$((posts + 1))
            curl --silent --fail --max-time 6 --output /dev/null --request POST "http://127.0.0.1:8001/message?text=$posts" ||
                fail 'a post failed'
        done
        missing=0
        for id in $(passing logging-service); do says facade-service-1 " logged .*$id" || missing=$((missing + 1)); done
    done
    show "$posts posts, and each of the five logged some of them"
}
