"""Copies a map into another one, by the official client. Says how many strings it copied; anything else is an error.

usage: copy_map.py MEMBERS CLUSTER FROM TO
"""

import sys

import hazelcast

members, cluster, source, target = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)
try:
    entries = client.get_map(source).blocking().entry_set()
    for key, value in entries:
        if not isinstance(key, str) or not isinstance(value, str):
            sys.exit(f"{key!r} -> {value!r} is not two strings")
        client.get_map(target).blocking().set(key, value)
    print(f"copied {len(entries)} strings")
finally:
    client.shutdown()
