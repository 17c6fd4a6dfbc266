#!/usr/bin/env bash
# Holds docs/CONTRACT.md to the tests: each promise names a test, and each test that is named exists.
# usage: scripts/check-contract.sh; exits 1 and names each line that does not hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CONTRACT=docs/CONTRACT.md

failed=0
complain() {
    printf '%s\n' "$1" >&2
    failed=1
}

# Names of all tests, as MODULE::NAME: MODULE is that of the file, or of its folder where the file is tests.rs or mod.rs.
tests() {
    find src tests -name '*.rs' -print0 | xargs -0 awk '
        FNR == 1 {
            module = FILENAME
            sub(/\/(tests|mod)\.rs$/, "", module); sub(/\.rs$/, "", module); sub(/.*\//, "", module)
            is_test = 0
        }
        /^ *#\[(tokio::)?test/ { is_test = 1; next }
        is_test && match($0, /fn [a-z0-9_]+/) { print module "::" substr($0, RSTART + 3, RLENGTH - 3); is_test = 0 }'
}

known=$(tests)
named=$(grep -noE '`[a-z0-9_]+(::[a-z0-9_]+)+`' "$CONTRACT" | tr -d '`')
[[ -n $named ]] || complain "$CONTRACT names no test"
while IFS=: read -r line path; do
    # The last two parts: the module and the test.
    short=$(sed -E 's/(::tests)?::([a-z0-9_]+)$/::\2/; s/.*:([a-z0-9_]+::[a-z0-9_]+)$/\1/' <<<"$path")
    grep -qxF "$short" <<<"$known" || complain "$CONTRACT:$line: there is no test $path"
done <<<"$named"

# A promise is an item of a list; its tests stand in the lines that follow it, indented.
while IFS= read -r bare; do
    complain "$CONTRACT:$bare: this promise names no test"
done < <(awk '
    function close_item() { if (item && !has_test) print item }
    /^- / { close_item(); item = FNR; has_test = 0 }
    /^#/ { close_item(); item = 0 }
    /`[a-z0-9_]+(::[a-z0-9_]+)+`/ { has_test = 1 }
    END { close_item() }' "$CONTRACT")

exit "$failed"
