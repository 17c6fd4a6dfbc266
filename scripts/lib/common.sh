# shellcheck shell=bash
# What every part of scripts/engines.sh uses, and other scripts too: messages, small checks, a lock.

# Who says the messages.
SPEAKER=${SPEAKER:-engines}

# Messages go to standard error: standard output carries results only.
# Whoever read them may be gone.
say() { printf '%s: %s\n' "$SPEAKER" "$*" >&2 || true; }

die() {
    printf '%s: error: %s\n' "$SPEAKER" "$1" >&2
    shift
    local line
    for line in "$@"; do printf '%s:        %s\n' "$SPEAKER" "$line" >&2; done
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Seconds since the machine started: deadlines must not jump when somebody sets the clock.
uptime_seconds() {
    local up
    read -r up _ </proc/uptime
    printf '%s\n' "${up%.*}"
}

# at_least 1.22.3 1.20: whether the first version is the second or a later one.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# with_lock FILE SECONDS COMMAND…: one holder of FILE at a time, also across processes.
# The kernel lets go of it when the holder ends. Processes that COMMAND leaves behind must
# close descriptor 9, or they hold it for as long as they live.
with_lock() {
    local file=$1 seconds=$2
    shift 2
    mkdir -p "$(dirname "$file")"
    exec 9>"$file"
    flock -w "$seconds" 9 || die "$file is locked by another run for more than $seconds s" \
        "wait for it to end, or look who holds it: fuser -v $file"
    "$@"
    exec 9>&-
}

require_linux() {
    [[ -r /proc/self/cmdline ]] ||
        die "this script finds its processes through /proc, which this system does not have" \
            "use Linux (a virtual machine or a container will do)"
}
