# SPDX-License-Identifier: Apache-2.0
"""Questions to a running agent and proxy, over their own sockets (include/bruma/protocol.h), without
brumactl."""

import json
import socket

from support import pages
from support.system import Failed


def ask(run_dir, op, timeout=10, **arguments):
    """One question to the agent. Returns the list of items it answers with."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(timeout)
    items = []
    try:
        s.connect(f"{run_dir}/agent.sock")
        s.send(json.dumps({"op": op, **arguments}).encode())
        while True:
            data = s.recv(65536)
            if not data:
                raise Failed(f"the agent at {run_dir} closed the connection")
            answer = json.loads(data)
            if answer["op"] == "end":
                return items
            if answer["op"] == "error":
                raise Failed(f"the agent says {answer.get('reason')}: {answer.get('error')}")
            items.append(answer)
    finally:
        s.close()


def pods(run_dir):
    """What the agent says of its pods, by "namespace/name"."""
    return {f"{p['namespace']}/{p['name']}": p for p in ask(run_dir, "pods")}


def status(run_dir):
    return ask(run_dir, "status")[0]


def takes_pods(run_dir, timeout=2):
    """Whether the agent would say to a container runtime that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(timeout)
        s.connect(f"{run_dir}/agent.sock")
        s.send(b'{"op":"cni-status"}')
        return b'"done"' in s.recv(65536)


def proxy_page(run_dir, path, timeout=10):
    """GET of a page of the proxy's admin server over its unix socket. Returns (status, body)."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(timeout)
    s.connect(f"{run_dir}/proxy.sock")
    return pages.get(s, path, "proxy")
