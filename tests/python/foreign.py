"""What the stand-ins for instances of another origin share: an ordinary HTTP server that registers itself in Consul.

It registers by Consul's plain agent API, without any meta, under an id of a style of its own, and never again. `GET /counts`
tells a test how often it did what.
"""

import collections
import json
import threading
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers JSON. A role adds to `gets`, and its own `do_POST`; headers that it does not know it does not look at."""

    # An answer leaves in one piece, at once.
    wbufsize = -1
    disable_nagle_algorithm = True
    counts = collections.Counter()
    counting = threading.Lock()

    def gets(self):
        return {"/health": lambda: {"status": "up"}, "/counts": lambda: dict(self.counts)}

    def do_GET(self):
        path = self.path.partition("?")[0]
        get = self.gets().get(path)
        if get is None:
            return self.answer(404, {"detail": "Not Found"})
        self.answer(200, get())
        self.count(f"GET {path}")

    def count(self, what):
        with self.counting:
            self.counts[what] += 1

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(handler, service, consul):
    """Serves until it is killed, as an instance of `service` in the Consul agent at `consul` (host:port)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address
    identifier = f"{service}-{uuid.uuid4()}"
    registration = {
        "ID": identifier,
        "Name": service,
        "Address": host,
        "Port": port,
        "Check": {"HTTP": f"http://{host}:{port}/health", "Interval": "2s", "Timeout": "1s"},
    }
    register = urllib.request.Request(
        f"http://{consul}/v1/agent/service/register", data=json.dumps(registration).encode(), method="PUT"
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(register, timeout=10).close()
    print(f"listening address={host}:{port} id={identifier}", flush=True)
    threading.Event().wait()
