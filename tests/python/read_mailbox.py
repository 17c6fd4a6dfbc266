"""Prints what a mailbox holds, by the official client: {"waiting": number, "delivered": {batch: entry}, "rejected": {key: entry}}.

An entry of either map that is not a string and a HazelcastJsonValue is an error.

usage: read_mailbox.py MEMBERS CLUSTER QUEUE
"""

import json
import sys

import hazelcast
from hazelcast.core import HazelcastJsonValue

members, cluster, name = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)


def read(map_name):
    entries = client.get_map(map_name).blocking().entry_set()
    for key, value in entries:
        if not isinstance(key, str) or not isinstance(value, HazelcastJsonValue):
            sys.exit(f"{map_name}: {key!r} -> {value!r} is not a string and a JSON value")
    return {key: value.loads() for key, value in entries}


try:
    waiting = client.get_queue(name).blocking().size()
    print(json.dumps({"waiting": waiting, "delivered": read(f"{name}_delivered"), "rejected": read(f"{name}_rejected")}))
finally:
    client.shutdown()
