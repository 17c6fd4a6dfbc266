# shellcheck shell=bash disable=SC2034
# The one place that says which engines and clients development and tests use.

CONSUL_VERSION=1.14.11                 # Go module github.com/hashicorp/consul
HAZELCAST_VERSION=5.7.0                # com.hazelcast:hazelcast
HAZELCAST_PYTHON_CLIENT_VERSION=5.7.0  # hazelcast-python-client, the reference client of the tests

JAVA_MIN_VERSION=17                    # Hazelcast 5.7 runs on nothing older
GO_MIN_VERSION=1.20                    # what Consul's go.mod asks for
