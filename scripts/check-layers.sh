#!/usr/bin/env bash
# Holds the direction of dependencies: main → roles → {config, registration, discovery, http, engine} → {batch, hazelcast, message}. Nothing points back.
# usage: scripts/check-layers.sh; exits 1 and names each line that points the wrong way.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What each module may use of this crate: "module: modules".
ALLOWED='
hazelcast: hazelcast
message:
batch:
wait:
shutdown:
telemetry:
engine: batch engine hazelcast message
config: engine wait
discovery: engine
registration: engine
http: engine http message
cli: config engine telemetry
roles: batch cli config discovery engine http message registration roles shutdown telemetry wait
main: cli roles shutdown telemetry
lib:
'
MAX_LINES=450

failed=0
complain() {
    printf '%s\n' "$1" >&2
    failed=1
}

# code FILE: its lines as LINE:TEXT, without comments and without the tests at its end.
code() { awk '/^#\[cfg\(test\)\]/ { exit } !/^ *\/\// { print FNR ":" $0 }' "$1"; }

# uses FILE: LINE:MODULE for each module of this crate that its code names.
uses() {
    code "$1" | awk -F: '{
        line = $1; text = substr($0, length($1) + 2)
        while (match(text, /(^|[^A-Za-z0-9_:"])(crate|svc)::(\{[^}]*\}|[a-z_]+)/)) {
            names = substr(text, RSTART, RLENGTH); text = substr(text, RSTART + RLENGTH)
            sub(/.*(crate|svc)::/, "", names); gsub(/[{} ]/, "", names)
            count = split(names, name, ",")
            for (i = 1; i <= count; i++) { sub(/::.*/, "", name[i]); print line ":" name[i] }
        }
    }'
}

while IFS= read -r file; do
    path=${file#src/}
    module=${path%%/*} module=${module%.rs}
    if ! rule=$(grep -E "^$module:" <<<"$ALLOWED"); then
        complain "$file: no rule says what the module $module may use; add one to scripts/check-layers.sh"
        continue
    fi
    while IFS=: read -r line name; do
        [[ " ${rule#*:} " == *" $name "* ]] || complain "$file:$line: $module may not use $name"
    done < <(uses "$file")

    # Roles see ports; which engine is behind them is not theirs to know.
    if [[ $module == roles ]] && hits=$(code "$file" | grep -E 'engine::(consul|hazelcast)|consulrs'); then
        complain "$file:${hits%%:*}: a role names an engine"
    fi
    # Bytes know no sockets.
    if [[ $file =~ ^src/hazelcast/(codec/|frame|message|data|partition) ]] && hits=$(code "$file" | grep tokio); then
        complain "$file:${hits%%:*}: the bytes layer names tokio"
    fi
    # A file is read as a whole.
    lines=$(code "$file" | wc -l)
    ((lines <= MAX_LINES)) || complain "$file: $lines lines of code, more than $MAX_LINES"
done < <(find src -name '*.rs' ! -name tests.rs ! -path '*/tests/*' | sort)

exit "$failed"
