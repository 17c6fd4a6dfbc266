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

# Names of all tests: the path of the module, from the file's name, and that of the function.
tests() {
    find src tests -name '*.rs' -print0 | xargs -0 awk '
        FNR == 1 {
            module = FILENAME
            is_beside = module ~ /^src\//
            sub(/^(src|tests)\//, "", module); sub(/(\/mod)?\.rs$/, "", module); gsub(/\//, "::", module)
            # Tests at the end of a file are in a module of their own.
            if (is_beside && module !~ /::tests(::|$)/) module = module "::tests"
            is_test = 0; is_list = 0
        }
        # These are tests too, on two kinds of engines.
        /^(on_both_engines|cases)!/ { is_list = 1; next }
        is_list && /^}/ { is_list = 0 }
        is_list && match($0, /[a-z0-9_]+/) { print module "::" substr($0, RSTART, RLENGTH); next }
        /^ *#\[(tokio::)?test/ { is_test = 1; next }
        is_test && /fn / {
            # In a macro it has no name yet.
            if (match($0, /fn [a-z0-9_]+/)) print module "::" substr($0, RSTART + 3, RLENGTH - 3)
            is_test = 0
        }'
}

known=$(tests)
named=$(grep -noE '`[a-z0-9_]+(::[a-z0-9_]+)+`' "$CONTRACT" | tr -d '`')
[[ -n $named ]] || complain "$CONTRACT names no test"
while IFS=: read -r line path; do
    grep -qxF "$path" <<<"$known" || complain "$CONTRACT:$line: there is no test $path"
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
