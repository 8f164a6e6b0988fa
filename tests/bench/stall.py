#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Connections that one side fills and the other does not read.
stall.py serve PORT                    accepts, and reads nothing
stall.py push ADDRESS PORT COUNT       COUNT connections that send what they can. Prints START once they are open, and one line
                                       of JSON when nothing has moved for a second and a half; ends when its stdin does."""

import json
import resource
import selectors
import socket
import sys
import time


def serve(port):
    s = socket.create_server(("0.0.0.0", port), backlog=4096)
    held = []
    while True:
        held.append(s.accept()[0])


def push(address, port, count):
    connections = selectors.DefaultSelector()
    for _ in range(count):
        c = socket.create_connection((address, port), timeout=30)
        c.setblocking(False)
        connections.register(c, selectors.EVENT_WRITE)
    print("START", flush=True)
    block, sent, cut, moved, began = b"x" * 65536, 0, 0, time.monotonic(), time.monotonic()
    while time.monotonic() - moved < 1.5 and time.monotonic() - began < 60 and connections.get_map():
        for key, _ in connections.select(0.1):
            try:
                sent += key.fileobj.send(block)
                moved = time.monotonic()
            except BlockingIOError:
                pass
            except OSError:
                connections.unregister(key.fileobj)
                cut += 1
    print(json.dumps({"stalled": count, "stalled_sent": sent, "stalled_cut": cut}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        push(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
