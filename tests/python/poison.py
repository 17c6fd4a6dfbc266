"""Puts in what our instances cannot read, by the official client, and what they must be able to read all the same.

Reads a JSON list of names and puts in the item of each into the queue, or with `deliveries` all entries of DELIVERIES into
the map. Prints how many it has put in. A name that is missing in the list is an error: whoever asks knows of all of them.

usage: poison.py MEMBERS CLUSTER queue NAME < NAMES
       poison.py MEMBERS CLUSTER deliveries NAME
"""

import datetime
import json
import sys

import hazelcast
from hazelcast.core import HazelcastJsonValue

MIB = 1024 * 1024


def message(identifier, text="t", **more):
    return json.dumps({"identifier": identifier, "text": text, **more})


def batch(identifier, *messages):
    return json.dumps({"batch": identifier, "messages": messages})


GOOD = {"identifier": "of-a-batch", "text": "t"}

ITEMS = {
    # What no instance can read.
    "integer": 5,
    "float": 1.5,
    "truth": True,
    "byte array": bytearray(b"a\0b"),
    "bytes": b"a\0b",
    "pickled object": {"pickled": 1},
    "list": ["a"],
    "date": datetime.date(2020, 1, 1),
    "no JSON": "not JSON at all",
    "empty text": "",
    "null byte": "\0",
    "5 MiB of no JSON": "x" * 5 * MIB,
    "20 MiB": "y" * 20 * MIB,
    "broken JSON": HazelcastJsonValue("{no json"),
    "cut JSON": HazelcastJsonValue('{"identifier":"cut","te'),
    "half a character": HazelcastJsonValue('{"identifier":"half","text":"\\ud800"}'),
    "JSON null": HazelcastJsonValue("null"),
    "empty array": HazelcastJsonValue("[]"),
    "deep arrays": HazelcastJsonValue("[" * 100_000 + "]" * 100_000),
    "deep objects": HazelcastJsonValue('{"a":' * 100_000 + "1" + "}" * 100_000),
    "deep and cut": HazelcastJsonValue('{"a":' * 100_000),
    "no identifier": HazelcastJsonValue(json.dumps({"text": "of nobody"})),
    "number for identifier": HazelcastJsonValue(message(7)),
    "object for text": HazelcastJsonValue(message("object", {"a": 1})),
    "identifier of 0 bytes": HazelcastJsonValue(message("")),
    "identifier of 300 bytes": HazelcastJsonValue(message("i" * 300)),
    "text of 5 MiB": HazelcastJsonValue(message("long", "z" * 5 * MIB)),
    "batch of nothing": HazelcastJsonValue(batch("nothing")),
    "batch with one bad message": HazelcastJsonValue(batch("one-bad", GOOD, {"identifier": "bad"})),
    "batch with one long identifier": HazelcastJsonValue(batch("one-long", GOOD, {"identifier": "i" * 300, "text": "t"})),
    # What all can read.
    "message as JSON": HazelcastJsonValue(message("as-json", "of Python, as JSON")),
    "message as text": message("as-text", "of Python, as text: \u00e4\U0001d11e"),
    "message with more": HazelcastJsonValue(message("with-more", "of Python, with more")[:-1] + ',"more":' + "[" * 10_000 + "]" * 10_000 + "}"),
    "batch as JSON": HazelcastJsonValue(batch("of-python", {"identifier": "in-a-batch", "text": "of Python, in a batch"})),
}

ENTRY = HazelcastJsonValue(json.dumps({"by": "somebody", "messages": [{"identifier": "never", "text": "never shown"}]}))

DELIVERIES = [
    ("integer", 5),
    ("truth", True),
    ("byte array", bytearray(b"{}")),
    ("pickled", {"pickled": 1}),
    ("no JSON", "not JSON at all"),
    ("JSON as a text", ENTRY.to_string()),
    ("broken JSON", HazelcastJsonValue("{no json")),
    ("array", HazelcastJsonValue("[]")),
    ("array of the fields", HazelcastJsonValue('["somebody",[{"identifier":"never","text":"never shown"}]]')),
    ("messages as arrays", HazelcastJsonValue('{"by":"somebody","messages":[["never","never shown"]]}')),
    ("nobody", HazelcastJsonValue('{"messages":[{"identifier":"never","text":"never shown"}]}')),
    ("null", HazelcastJsonValue('{"by":null,"messages":[]}')),
    ("no messages", HazelcastJsonValue('{"by":"somebody"}')),
    ("half a message", HazelcastJsonValue('{"by":"somebody","messages":[{"identifier":"never"}]}')),
    (5, ENTRY),
    (1.5, ENTRY),
    (bytearray(b"key"), ENTRY),
    (HazelcastJsonValue('"key"'), ENTRY),
]

members, cluster, kind, name = sys.argv[1:]
client = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster)
try:
    if kind == "queue":
        queue, names = client.get_queue(name).blocking(), json.load(sys.stdin)
        if set(names) != set(ITEMS):
            sys.exit(f"not asked for: {set(ITEMS) - set(names)}")
        for item in names:
            if not queue.offer(ITEMS[item]):
                sys.exit(f"no room for {item}")
        print(len(names))
    else:
        deliveries = client.get_map(f"{name}_delivered").blocking()
        for key, value in DELIVERIES:
            deliveries.set(key, value)
        print(len(DELIVERIES))
finally:
    client.shutdown()
