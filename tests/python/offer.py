"""Puts items into a queue, by the official client, and prints the size of the queue afterwards.

Each item is a list of its kind and its value: ["json", text] a HazelcastJsonValue, ["plain", value] what Python makes of the
value (a string, a number, a truth value), ["pickled", value] an object that only Python reads.

usage: offer.py MEMBERS CLUSTER QUEUE < ITEMS
"""

import json
import sys

import hazelcast
from hazelcast.core import HazelcastJsonValue

KINDS = {"json": HazelcastJsonValue, "plain": lambda value: value, "pickled": lambda value: {"pickled": value}}

members, cluster, name = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)
try:
    queue = client.get_queue(name).blocking()
    for kind, value in json.load(sys.stdin):
        if not queue.offer(KINDS[kind](value)):
            sys.exit(f"no room for {kind} {value!r}")
    print(queue.size())
finally:
    client.shutdown()
