# shellcheck shell=bash disable=SC2034 # variables that other parts read
# The programs the engines need, found on the machine or put once into the cache.
#
# A cache entry is named by its version and appears whole or not at all: it is built in a
# folder beside its place and renamed. A lock per entry lets the second of two runs wait
# for the first one's work. Builders chain with &&, since `set -e` is off where a
# function's status is asked for.

CACHE_DIR=${SVC_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/svc}
TOOL_LOCK_SECONDS=1800 # a first build of Consul on a small machine takes minutes

# need_tool NAME PACKAGE: NAME on the PATH, installed by apt where that is possible.
need_tool() {
    local tool=$1 package=$2
    have "$tool" && return 0
    if [[ $(id -u) == 0 ]] && have apt-get; then
        say "installing $package, since '$tool' is missing"
        with_lock "$CACHE_DIR/apt.lock" "$TOOL_LOCK_SECONDS" apt_install "$tool" "$package"
    fi
    have "$tool" || die "'$tool' is missing" "install it (Debian: apt-get install $package) and run this again"
}

apt_install() {
    have "$1" && return # another run was faster
    local log="$CACHE_DIR/apt.log"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$2"; } \
        >"$log" 2>&1 9>&- || { tail -n 20 "$log" >&2; die "apt-get could not install $2, see $log"; }
}

# cached ENTRY BUILDER: makes CACHE_DIR/ENTRY by calling BUILDER with an empty folder.
cached() {
    local entry=$1 builder=$2
    [[ -e "$CACHE_DIR/$entry" ]] || with_lock "$CACHE_DIR/$entry.lock" "$TOOL_LOCK_SECONDS" build_entry "$entry" "$builder"
}

build_entry() {
    local entry=$1 builder=$2 work
    [[ -e "$CACHE_DIR/$entry" ]] && return 0
    rm -rf "$CACHE_DIR/$entry".?????? # of a run that was killed: we hold the lock
    work=$(mktemp -d "$CACHE_DIR/$entry.XXXXXX")
    if ! "$builder" "$work" >"$CACHE_DIR/$entry.log" 2>&1 9>&-; then
        rm -rf "$work"
        tail -n 20 "$CACHE_DIR/$entry.log" >&2
        die "could not make $entry, see $CACHE_DIR/$entry.log"
    fi
    chmod 755 "$work"
    mv -T "$work" "$CACHE_DIR/$entry"
}

# --- Consul: from the PATH, or built from its Go module (MPL-2.0 up to 1.14) ---

# consul_program: sets CONSUL to the path of the executable.
consul_program() {
    if have consul; then
        CONSUL=$(command -v consul)
        return 0
    fi
    local entry=consul-$CONSUL_VERSION
    if [[ ! -e "$CACHE_DIR/$entry" ]]; then
        need_go
        say "building Consul $CONSUL_VERSION, once; this takes a few minutes (log: $CACHE_DIR/$entry.log)"
        cached "$entry" build_consul
    fi
    CONSUL=$CACHE_DIR/$entry/consul
}

need_go() {
    need_tool go golang-go
    local version
    version=$(go env GOVERSION)
    at_least "${version#go}" "$GO_MIN_VERSION" ||
        die "Go ${version#go} is too old to build Consul $CONSUL_VERSION, which needs $GO_MIN_VERSION" \
            "put a newer Go, or a consul executable, on the PATH"
}

# A module around the one we want, since `go install` refuses a module with replacements.
# Its own go.sum pins its dependencies.
build_consul() {
    local work=$1 module=github.com/hashicorp/consul
    mkdir "$work/build" && (
        cd "$work/build" || exit 1
        export GOWORK=off GOFLAGS=-mod=mod
        go mod init engines &&
            go mod edit -require="$module@v$CONSUL_VERSION" &&
            go mod download "$module@v$CONSUL_VERSION" &&
            cat "$(go list -m -f '{{.Dir}}' "$module")/go.sum" >>go.sum &&
            printf 'package engines\n\nimport _ "%s"\n' "$module" >engines.go &&
            go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$work/consul" "$module"
    ) && "$work/consul" version && rm -rf "$work/build"
}

# --- Hazelcast: the jar from Maven Central, and Java to run it ---

# hazelcast_jar: sets HAZELCAST_JAR to the path of the jar and checks Java.
hazelcast_jar() {
    need_java
    local entry=hazelcast-$HAZELCAST_VERSION
    if [[ ! -e "$CACHE_DIR/$entry" ]]; then
        need_tool mvn maven
        say "fetching Hazelcast $HAZELCAST_VERSION, once"
        cached "$entry" fetch_hazelcast
    fi
    HAZELCAST_JAR=$CACHE_DIR/$entry/hazelcast-$HAZELCAST_VERSION.jar
}

need_java() {
    need_tool java default-jre-headless
    local version
    version=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java\.specification\.version = //p')
    at_least "${version:-0}" "$JAVA_MIN_VERSION" ||
        die "Java ${version:-of an unknown version} at $(command -v java) is too old: Hazelcast needs $JAVA_MIN_VERSION" \
            "put a newer one first on the PATH (Debian: apt-get install default-jre-headless)"
}

fetch_hazelcast() {
    mvn --batch-mode --no-transfer-progress dependency:copy \
        "-Dartifact=com.hazelcast:hazelcast:$HAZELCAST_VERSION" "-DoutputDirectory=$1" &&
        [[ -s "$1/hazelcast-$HAZELCAST_VERSION.jar" ]]
}

# Class data that the JVM maps instead of parsing and verifying the jar's classes again, and
# no check of the configuration file against its schema: together they halve the time that a
# member takes to start. The file is written by us, and the run that makes the archive checks it.
# shellcheck disable=SC2016 # the signs in the log format are its own
JAVA_FLAGS=(
    -Dhazelcast.config.schema.validation.enabled=false
    # Only the interface that is configured: loopback.
    -Dhazelcast.socket.bind.any=false
    '-Djava.util.logging.SimpleFormatter.format=%1$tF %1$tT.%1$tL %4$s %3$s %5$s%6$s%n'
    # What Hazelcast asks for on Java 9 and later; without, it warns and is slower.
    --add-modules java.se
    --add-exports java.base/jdk.internal.ref=ALL-UNNAMED
    --add-opens java.base/java.lang=ALL-UNNAMED
    --add-opens java.base/java.nio=ALL-UNNAMED
    --add-opens java.base/sun.nio.ch=ALL-UNNAMED
    --add-opens java.management/sun.management=ALL-UNNAMED
    --add-opens jdk.management/com.sun.management.internal=ALL-UNNAMED
)

# class_archive: sets CLASS_ARCHIVE, empty where this Java cannot make one: members then start slower.
class_archive() {
    local entry version
    version=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java\.vm\.version = //p')
    entry=hazelcast-$HAZELCAST_VERSION-classes-java-${version//[^A-Za-z0-9.+-]/_}
    if [[ ! -e "$CACHE_DIR/$entry" ]]; then
        say "making the class archive for Hazelcast $HAZELCAST_VERSION on this Java, once"
        cached "$entry" build_class_archive
    fi
    CLASS_ARCHIVE=''
    if [[ -s "$CACHE_DIR/$entry/hazelcast.jsa" ]]; then CLASS_ARCHIVE=$CACHE_DIR/$entry/hazelcast.jsa; fi
}

# Runs one member alone until it has started, and stops it: the JVM then writes what it loaded.
# A failure leaves an entry without archive, so that it is not tried at every start.
build_class_archive() {
    local work=$1 java deadline
    free_port
    ENGINES=(archive-1) CLUSTER=([archive-1]=archive) PORT=([archive-1]=$FREE_PORT)
    member_config archive "$FREE_PORT" >"$work/member.yaml"
    java -Xms256m -Xmx256m -XX:+UseSerialGC "-XX:ArchiveClassesAtExit=$work/hazelcast.jsa" \
        "${JAVA_FLAGS[@]}" -Dhazelcast.config.schema.validation.enabled=true "-Dhazelcast.config=$work/member.yaml" \
        -cp "$HAZELCAST_JAR" com.hazelcast.core.server.HazelcastMemberStarter >"$work/log" 2>&1 </dev/null &
    java=$!
    deadline=$(($(uptime_seconds) + 60))
    until http_get "$FREE_PORT" /hazelcast/health | grep -q ACTIVE; do
        if ! kill -0 "$java" 2>/dev/null || (($(uptime_seconds) >= deadline)); then break; fi
        sleep 0.1
    done
    kill "$java" 2>/dev/null || true
    wait "$java" || true
    cat "$work/log"
    rm "$work/log"
}

# --- Python, for the reference client ---

# python_client: sets PYTHON to an interpreter that can import hazelcast.
python_client() {
    local entry=python-hazelcast-$HAZELCAST_PYTHON_CLIENT_VERSION
    if [[ ! -e "$CACHE_DIR/$entry" ]]; then
        need_tool python3 python3
        python3 -c 'import ensurepip' 2>/dev/null || need_venv
        say "making a Python environment with hazelcast-python-client $HAZELCAST_PYTHON_CLIENT_VERSION, once"
        cached "$entry" build_venv
    fi
    PYTHON=$CACHE_DIR/$entry/bin/python
}

need_venv() {
    if [[ $(id -u) == 0 ]] && have apt-get; then
        with_lock "$CACHE_DIR/apt.lock" "$TOOL_LOCK_SECONDS" apt_install pyvenv python3-venv
    fi
    python3 -c 'import ensurepip' 2>/dev/null ||
        die "$(command -v python3) cannot make virtual environments" \
            "install the module venv (Debian: apt-get install python3-venv) and run this again"
}

# Scripts of an environment name its folder, which is renamed afterwards: only the
# interpreter is used, and it finds its packages relative to itself.
build_venv() {
    python3 -m venv "$1" &&
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
            "hazelcast-python-client==$HAZELCAST_PYTHON_CLIENT_VERSION" &&
        "$1/bin/python" -c 'import hazelcast'
}
