#!/usr/bin/env bash
# The tests: everything, or the parts that are named. What a fresh machine lacks is fetched; see `scripts/test.sh help`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PROGRAM='test'
# shellcheck source-path=SCRIPTDIR
. scripts/lib/common.sh
. scripts/lib/tools.sh

TARGET=${CARGO_TARGET_DIR:-target}

usage() {
    cat <<'HELP'
usage: scripts/test.sh [PART…]

  lint         format, clippy with warnings as errors, direction of dependencies, a test for each promise
  unit         tests beside the code, no engines
  integration  one real Consul agent and two real Hazelcast clusters, started for it; and tmux
  faults       members killed, hung and cut off, on engines of their own
  chaos        scripts/chaos.sh --short: one part after the other dies under load, and nothing acknowledged is lost
  bench        scripts/bench.sh --short: that everything can be measured, and nothing acknowledged is lost; no figures
  containers   scripts/compose-check.sh: the image and the compose files on a real Docker engine

Without a PART: all of them but bench. The engines are built or fetched on the first run and kept in
~/.cache/svc (SVC_CACHE_DIR); one that cannot be had fails the run and says why.
HELP
}

announce() { printf '\n== %s\n' "$1"; }

# SQLite and parts of rustls are C.
build_tools() {
    local tool missing=()
    for tool in cargo cc; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if ((${#missing[@]} == 0)); then return 0; fi
    printf 'the build needs %s: install Rust, and a C compiler (Debian: apt-get install build-essential)\n' "${missing[*]}" >&2
    exit 1
}

lint() {
    announce 'format, lints, layers, contract'
    cargo fmt --check
    cargo clippy --locked --all-targets -- --deny warnings
    RUSTDOCFLAGS='--deny warnings' cargo doc --locked --no-deps --quiet
    scripts/check-layers.sh
    scripts/check-contract.sh
}

engines() {
    announce 'engines'
    scripts/engines.sh fetch
    scripts/engines.sh python >/dev/null
}

# What scripts/local.sh shows the system in.
window() { need_tool tmux tmux; }

# run_tests ARGUMENTS…: cargo test, which ends with its own summary.
run_tests() {
    announce "cargo test $*"
    cargo test --locked "$@"
}

# On the executables that the tests have built already.
chaos() {
    announce 'chaos'
    cargo build --locked --bin svc --example load
    SVC_BIN=$TARGET/debug/svc SVC_LOAD=$TARGET/debug/examples/load scripts/chaos.sh --short
}

bench() {
    announce 'bench'
    cargo build --locked --bin svc --example load --example bench
    SVC_BIN=$TARGET/debug/svc SVC_LOAD=$TARGET/debug/examples/load SVC_BENCH=$TARGET/debug/examples/bench \
        HZ_HEAP=512m scripts/bench.sh --short
}

containers() {
    announce 'containers'
    scripts/compose-check.sh
}

run_part() {
    case $1 in
        lint) lint ;;
        unit) run_tests --lib --bins --examples ;;
        integration) engines && window && run_tests --test integration ;;
        faults) engines && run_tests --test faults ;;
        chaos) chaos ;;
        bench) bench ;;
        containers) containers ;;
        *)
            printf 'no such part: %s\n\n' "$1" >&2
            usage >&2
            exit 2
            ;;
    esac
}

if (($# == 0)); then
    build_tools
    lint
    engines
    window
    run_tests --all-targets
    chaos
    containers
elif [[ $1 == help || $1 == -h || $1 == --help ]]; then
    usage
else
    build_tools
    for part in "$@"; do run_part "$part"; done
fi
