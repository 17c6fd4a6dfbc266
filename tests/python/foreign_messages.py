"""A stand-in for a messages instance of another origin, which lists these texts until it is killed.

It speaks HTTP/1.0, and takes nothing out of the queue.

usage: foreign_messages.py CONSUL TEXT...
"""

import sys

import foreign

consul, *texts = sys.argv[1:]


class Handler(foreign.Handler):
    def gets(self):
        return super().gets() | {"/messages": lambda: texts}


foreign.serve(Handler, "messages-service", consul)
