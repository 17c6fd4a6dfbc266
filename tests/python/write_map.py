"""Writes a JSON object into a map, by the official client: strings as strings, and other values as what Python makes of them.

usage: write_map.py MEMBERS CLUSTER MAP < OBJECT
"""

import json
import sys

import hazelcast

members, cluster, name = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)
try:
    target = client.get_map(name).blocking()
    for key, value in json.load(sys.stdin).items():
        target.set(key, value)
finally:
    client.shutdown()
