"""A stand-in for a logging instance of another origin, on the same map, until it is killed.

It takes only the single form of `POST /log`, of at most 256 KiB, answers 200 where ours answer 201, and lists plain texts
whatever it is asked for.

usage: foreign_logging.py CONSUL MEMBERS CLUSTER MAP
"""

import json
import sys

import hazelcast
from hazelcast.errors import HazelcastError

import foreign

MOST_BYTES = 256 * 1024

consul, members, cluster, name = sys.argv[1:]
logs = hazelcast.HazelcastClient(cluster_members=members.split(","), cluster_name=cluster).get_map(name).blocking()


class Handler(foreign.Handler):
    protocol_version = "HTTP/1.1"

    def gets(self):
        return super().gets() | {"/logs": lambda: list(logs.values())}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/log":
            return self.answer(404, {"detail": "Not Found"})
        if len(body) > MOST_BYTES:
            return self.answer(413, {"detail": "Too Large"})
        try:
            message = json.loads(body)
        except ValueError:
            return self.answer(400, {"detail": "no JSON"})
        fields = [message.get(field) for field in ("identifier", "text")] if isinstance(message, dict) else [None]
        if not all(isinstance(field, str) for field in fields):
            return self.answer(422, {"detail": "not one message"})
        try:
            logs.set(*fields)
        except HazelcastError as error:
            return self.answer(500, {"detail": str(error)})
        self.count("POST /log")
        self.answer(200, None)


foreign.serve(Handler, "logging-service", consul)
