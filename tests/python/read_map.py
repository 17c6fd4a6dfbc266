"""Prints a map as a JSON object, by the official client. An entry that is not two strings is an error.

usage: read_map.py MEMBERS CLUSTER MAP
"""

import json
import sys

import hazelcast

members, cluster, name = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)
try:
    entries = dict(client.get_map(name).blocking().entry_set())
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            sys.exit(f"{key!r} -> {value!r} is not two strings")
    print(json.dumps(entries))
finally:
    client.shutdown()
