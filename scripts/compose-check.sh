#!/usr/bin/env bash
# The Dockerfile and the compose files on a real Docker engine: built, started, killed piece by piece under load, taken down.
# See `scripts/compose-check.sh help`.
set -euo pipefail

PROGRAM=compose-check
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source-path=SCRIPTDIR
. "$SCRIPTS/lib/versions.sh"
. "$SCRIPTS/lib/common.sh"
. "$SCRIPTS/lib/tools.sh"
. "$SCRIPTS/lib/standins.sh"
. "$SCRIPTS/lib/daemon.sh"
. "$SCRIPTS/lib/watch.sh"
. "$SCRIPTS/lib/load.sh"
. "$SCRIPTS/lib/compose.sh"
. "$SCRIPTS/lib/compose-checks.sh"

usage() {
    cat <<'HELP'
usage: scripts/compose-check.sh

Builds the image and brings docker-compose.yaml up as they are, runs the commands of the README's section "In containers"
word for word, kills every container once under load, and takes it all down. Exits 0 only if all of it held: no request
failed through a facade that was not itself killed, and nothing that was acknowledged is missing.

Where images can be pulled, it uses the engine that runs, or starts one and stops it. Elsewhere, as root on Debian, it makes
stand-ins for the base images from Debian's packages and what this machine has, and runs everything in namespaces of its
own: no port, network, image or process of it is seen outside, and all of it ends with the script, however that ends.

What is missing is installed from Debian's packages: docker.io and docker-compose, for stand-ins debootstrap too.

environment
  SVC_CACHE_DIR   where fetched and built things are kept, default ~/.cache/svc; the image store of the stand-ins too
  SVC_IMAGES      "standin" or "real" instead of finding out
HELP
}

# prepare: what has to be fetched or built where the network is.
prepare() {
    mkdir -p "$CACHE_DIR"
    need_tool curl curl
    need_tool docker docker.io
    need_compose
    prepare_load
    if [[ -z ${SVC_IMAGES:-} ]]; then choose_images; fi
    if [[ $SVC_IMAGES == standin ]]; then prepare_standins; fi
}

# choose_images: sets SVC_IMAGES.
choose_images() {
    local image
    image=$(dockerfile_image debian)
    if docker info >/dev/null 2>&1; then
        if can_pull "$image"; then SVC_IMAGES=real; else SVC_IMAGES=standin; fi
    else
        start_daemon "$CACHE_DIR/docker-real" --bridge none --iptables=false
        if can_pull "$image"; then SVC_IMAGES=real; else SVC_IMAGES=standin; fi
        stop_daemon
        unset DOCKER_HOST
    fi
    say "images: $SVC_IMAGES"
}

# in_namespaces: this script again, where nothing of it is seen outside and all of it ends with the first process.
in_namespaces() {
    setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc \
        env SVC_IMAGES=standin COMPOSE_CHECK_RUN="$RUN" "$SCRIPTS/compose-check.sh"
}

# clear_store: what a run that was killed left there. The store of the stand-ins is ours alone.
clear_store() {
    # shellcheck disable=SC2033 # the command is meant, not the function that the README's lines have
    docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    docker network prune --force >/dev/null
    docker volume prune --force >/dev/null
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    if [[ -n ${STARTED:-} ]]; then take_down >/dev/null 2>&1 || true; fi
    stop_load
    stop_daemon
    if [[ -z ${COMPOSE_CHECK_RUN:-} ]]; then rm -rf "$RUN"; fi
    exit "$status"
}

case ${1:-} in
    '') ;;
    help | -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
esac

RUN=${COMPOSE_CHECK_RUN:-$(mktemp -d "${TMPDIR:-/tmp}/svc-compose.XXXXXX")}
LOGS=$RUN/logs
mkdir -p "$LOGS"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [[ -z ${COMPOSE_CHECK_RUN:-} ]]; then
    prepare
    if [[ $SVC_IMAGES == standin ]]; then
        with_lock "$CACHE_DIR/docker.lock" "$TOOL_LOCK_SECONDS" in_namespaces
        exit 0
    fi
    docker info >/dev/null 2>&1 || start_host_daemon
else
    need_compose
    consul_program
    hazelcast_jar
    ip link set lo up
    start_daemon "$CACHE_DIR/docker"
    clear_store
    build_standins
fi
check_all
