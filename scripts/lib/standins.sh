# shellcheck shell=bash
# Stand-ins for the base images, under their own names, for where no image registry is reached: made of Debian's packages
# and of what this machine has (Rust, Java, the engines' cache). Each gives what Dockerfile and docker-compose.yaml use of
# the real one: paths, users, commands, variables. They live in the image store of a daemon of our own, so that nobody
# takes one for the real image.

# The folders that the images are built from are made in the cache, where the network is reached; the images are built where
# it is not.

# prepare_standins: everything that has to be fetched.
prepare_standins() {
    [[ $(id -u) == 0 ]] || die 'no image registry is reached, and stand-ins for the images can only be made by root' \
        'run this as root, or where images can be pulled'
    need_tool dockerd docker.io
    need_tool ip iproute2
    need_tool debootstrap debootstrap
    need_tool cargo cargo
    need_tool java default-jre-headless
    consul_program
    hazelcast_jar
    if [[ ! -e $CACHE_DIR/$(root_entry) ]]; then say "making a Debian $(debian_release) root file system, once"; fi
    cached "$(root_entry)" build_root
    cached "$(tools_entry)" build_tools_root
    cached "$(vendor_entry)" build_vendor
}

# debian_release: that of the image that Dockerfile ends with.
debian_release() { dockerfile_image debian | sed 's/^debian:\([a-z]*\).*/\1/'; }
root_entry() { printf 'debian-%s\n' "$(debian_release)"; }
tools_entry() { printf 'debian-%s-tools\n' "$(debian_release)"; }
vendor_entry() { printf 'vendor-%s\n' "$(lock_hash)"; }
lock_hash() { sha256sum "$ROOT/Cargo.lock" | cut -c1-16; }

# build_root FOLDER [PACKAGES]: root.tar, a minimal Debian with these, a comma list.
build_root() {
    debootstrap --variant=minbase ${2:+"--include=$2"} "$(debian_release)" "$1/root" &&
        rm -rf "$1"/root/var/cache/apt/* "$1"/root/var/lib/apt/lists/* &&
        tar -C "$1/root" -cf "$1/root.tar" . && rm -rf "$1/root"
}

# build_tools_root FOLDER: the same with a C compiler, for the Rust image, and curl, for Hazelcast's.
build_tools_root() { build_root "$1" ca-certificates,curl,gcc,libc6-dev,make,perl; }

# build_vendor FOLDER: the sources of all crates that Cargo.lock names, and the configuration that makes cargo take them.
build_vendor() {
    cargo vendor --locked --manifest-path "$ROOT/Cargo.toml" --respect-source-config "$1/vendor" >"$1/vendor.toml" &&
        cat >"$1/config.toml" <<'TOML'
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "/usr/local/cargo/vendor"
TOML
}

# build_standins: all images that Dockerfile and docker-compose.yaml name, in the daemon that DOCKER_HOST names.
build_standins() {
    local debian rust consul hazelcast
    debian=$(dockerfile_image debian) rust=$(dockerfile_image rust)
    consul=hashicorp/consul:$CONSUL_VERSION hazelcast=hazelcast/hazelcast:$HAZELCAST_VERSION
    import_root "$debian" "$(root_entry)"
    import_root svc-standin/tools "$(tools_entry)"
    standin "$rust" "$(rustc --version) $(lock_hash)" rust_context
    standin "$consul" "$CONSUL_VERSION" consul_context
    standin "$hazelcast" "$HAZELCAST_VERSION $(java --version | head -n 1)" hazelcast_context
}

# dockerfile_image NAME: the image of that name, with its tag, that Dockerfile starts from.
dockerfile_image() { sed -n "s/^FROM \\($1:[^ ]*\\).*/\\1/p" "$ROOT/Dockerfile"; }

# label_of IMAGE: what it was made of, where it is a stand-in.
label_of() { docker image inspect --format '{{index .Config.Labels "svc.standin"}}' "$1" 2>/dev/null || true; }

import_root() {
    if [[ $(label_of "$1") == "$2" ]]; then return 0; fi
    docker import --change "LABEL svc.standin=$2" --change 'CMD ["bash"]' "$CACHE_DIR/$2/root.tar" "$1" >/dev/null
    say "made a stand-in for $1"
}

# standin IMAGE MADE_OF CONTEXT: builds it, unless it is there; CONTEXT fills a folder with a Dockerfile and what that copies.
standin() {
    local image=$1 made_of=$2 context=$3 folder
    if [[ $(label_of "$image") == "$made_of" ]]; then return 0; fi
    folder=$(mktemp -d "$RUN/standin.XXXXXX")
    "$context" "$folder"
    DOCKER_BUILDKIT=0 docker build --quiet --label "svc.standin=$made_of" --tag "$image" "$folder" >"$LOGS/standin.log" 2>&1 ||
        { tail -n 20 "$LOGS/standin.log" >&2; die "could not make a stand-in for $image"; }
    rm -rf "$folder"
    say "made a stand-in for $image"
}

rust_context() {
    cp -a "$(rustc --print sysroot)" "$1/toolchain"
    rm -rf "$1"/toolchain/share
    cp -a "$CACHE_DIR/$(vendor_entry)" "$1/cargo"
    cat >"$1/Dockerfile" <<'DOCKERFILE'
FROM svc-standin/tools
COPY toolchain /usr/local/toolchain
COPY cargo /usr/local/cargo
ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DOCKERFILE
}

consul_context() {
    cp "$CONSUL" "$1/consul"
    cat >"$1/Dockerfile" <<DOCKERFILE
FROM $(dockerfile_image debian)
COPY consul /bin/consul
RUN groupadd --gid 1000 consul && useradd --uid 100 --gid consul consul && install -d -o consul -g consul /consul/data /consul/config
VOLUME /consul/data
DOCKERFILE
}

# The real image runs `hz start`, which takes these variables.
hazelcast_context() {
    local home
    home=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java\.home = //p')
    mkdir "$1/java" "$1/hazelcast" "$1/hazelcast/bin"
    # Followed, since Debian's configuration is elsewhere; its link to the sources leads nowhere.
    tar -C "$home" --dereference --exclude src.zip -c bin conf lib | tar -C "$1/java" -x
    cp "$HAZELCAST_JAR" "$1/hazelcast/"
    printf '#!/bin/bash\nexec java %s $JAVA_OPTS "-Dhazelcast.config=$HAZELCAST_CONFIG" -cp "/opt/hazelcast/*" %s\n' \
        "$(standin_java_flags)" com.hazelcast.core.server.HazelcastMemberStarter >"$1/hazelcast/bin/hz"
    chmod 755 "$1/hazelcast/bin/hz"
    cat >"$1/Dockerfile" <<'DOCKERFILE'
FROM svc-standin/tools
COPY java /opt/java
COPY hazelcast /opt/hazelcast
RUN useradd --system hazelcast
USER hazelcast
WORKDIR /opt/hazelcast
ENV PATH=/opt/hazelcast/bin:/opt/java/bin:/usr/bin:/bin JAVA_OPTS=""
CMD ["hz", "start"]
DOCKERFILE
}

# What the real image's script gives to Java 9 and later.
standin_java_flags() {
    printf '%s ' -Djava.net.preferIPv4Stack=true --add-modules java.se --add-exports java.base/jdk.internal.ref=ALL-UNNAMED \
        --add-opens java.base/java.lang=ALL-UNNAMED --add-opens java.base/sun.nio.ch=ALL-UNNAMED \
        --add-opens java.management/sun.management=ALL-UNNAMED \
        --add-opens jdk.management/com.sun.management.internal=ALL-UNNAMED
}
