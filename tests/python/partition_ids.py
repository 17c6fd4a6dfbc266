"""Reads a JSON list of keys and prints the JSON list of their partition ids, as the official client computes them.

usage: partition_ids.py MEMBERS CLUSTER < KEYS
"""

import json
import sys

import hazelcast

members, cluster = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)
try:
    client.get_map("partition-ids").blocking().size()
    partitions = client.partition_service
    print(json.dumps([partitions.get_partition_id(key) for key in json.load(sys.stdin)]))
finally:
    client.shutdown()
