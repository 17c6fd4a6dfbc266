# shellcheck shell=bash disable=SC2034
# Which engines and clients development and tests use. Those that containers use too stand in .env.

# pinned NAME: its value in .env.
pinned() { sed -n "s/^$1=//p" "$SCRIPTS/../.env"; }

CONSUL_VERSION=$(pinned CONSUL_VERSION)       # Go module github.com/hashicorp/consul
HAZELCAST_VERSION=$(pinned HAZELCAST_VERSION) # com.hazelcast:hazelcast
HAZELCAST_PYTHON_CLIENT_VERSION=5.7.0         # hazelcast-python-client, the reference client of the tests

JAVA_MIN_VERSION=17                           # Hazelcast 5.7 runs on nothing older
GO_MIN_VERSION=1.20                           # what Consul's go.mod asks for
