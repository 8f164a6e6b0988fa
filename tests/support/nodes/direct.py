# SPDX-License-Identifier: Apache-2.0
"""A mesh whose pods' connections go past the proxy where they need none, and which way one has gone."""

import contextlib
import re
import time

from support import agent
from support.bpf_map import dump
from support.direct_maps import LONG_WAYS
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ask
from support.system import wait_for
from support.wire.segments import Wire

WAYS = ("--direct-outside", "true", "--direct-inbound", "true")
# For tests of what the proxy does with what others say in plaintext, or with what goes to outside the mesh.
LONG = ("--direct-outside", "false", "--direct-inbound", "false")

# Dials each address again and again, one connection after the other, and says how each went.
DIALER = """
import errno, os, socket, sys, threading, time
def dial(to):
    while True:
        try:
            s = socket.create_connection((to, 8080), timeout=60)
            s.sendall(b"plain words")
            said = "ok" if s.recv(100) == b"plain words" else "end"
            s.close()
        except OSError as e:
            said = errno.errorcode.get(e.errno, type(e).__name__)
        os.write(1, f"DIALED {to} {said}\\n".encode())
        time.sleep(0.01)
for to in sys.argv[1:]:
    threading.Thread(target=dial, args=(to,)).start()
"""

# One connection that has time; says what came back, or how it ended.
PATIENT = """
import errno, socket, sys
try:
    s = socket.create_connection((sys.argv[1], 8080), timeout=60)
    print("CONNECTED", flush=True)
    s.sendall(b"hello")
    print("SAID", s.recv(100).decode() or "end", flush=True)
except OSError as e:
    print("SAID", errno.errorcode.get(e.errno, type(e).__name__), flush=True)
"""


@contextlib.contextmanager
def direct_mesh(*agent_options, **options):
    """web, near and busy on one node, shop on another; outside and foreign there belong to no mesh. wire: what passes the first
    node."""
    with Mesh(nodes=2, agent_options=(*WAYS, *agent_options), **options) as m:
        m.web, m.near, m.busy = m.pod("web"), m.pod("near"), m.pod("busy")
        m.shop = m.pod("shop", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.members = [m.web, m.near, m.busy, m.shop]
        m.start()
        for pod in (*m.members, m.outside):
            pod.server(ECHO, 8080)
        with Wire(m.nodes[0]) as m.wire:
            wait_direct(m.web, "direct", "pass")
            yield m


def said_of(pod):
    """What the agent says of the pod's ways: {"outside", "inbound", "sameNode"}."""
    return agent.pods(pod.node.run_dir)[pod.full_name].get("direct", {})


def wait_direct(pod, outside="direct", inbound=None):
    """Until that is said."""

    def there():
        said = said_of(pod)
        return said.get("outside") == outside and inbound in (None, said.get("inbound"))

    wait_for(there, f"{pod.name} to be {outside}, {inbound}: last {said_of(pod)}", log=pod.node.proxy_log)


def device(pod):
    """Index of the one by which connections of the pod may go directly to outside; 0: by none."""
    return next(value["flags"] >> 16 for _, value in dump(pod.node, "pods") if value["pod"] == pod.full_name)


def counters(pod):
    """Of the pod's connections, as the programs in the kernel have counted."""
    if not hasattr(pod, "cookie"):
        pod.cookie = int(agent.pods(pod.node.run_dir)[pod.full_name]["cookie"])
    found = {}
    for name in ("pod_counters", "direct_counters"):
        for key, value in dump(pod.node, name):
            if int(key) == pod.cookie:
                found.update({k: v for k, v in value.items() if isinstance(v, int)})
    return found


def silences(pod):
    """How many of the pod's connections went the long way because the proxy had not renewed its word in time."""
    (found,) = [value for key, value in dump(pod.node, "direct_counters") if int(key) == pod.cookie]
    at = LONG_WAYS.index("proxy_silent")
    return found["outside_long_way"][at] + found["inbound_long_way"][at]


def _way(pod, client, to, direct, proxy):
    """A machine that does not let the proxy run for two seconds makes it silent, which is no answer: then it is asked again."""
    while True:
        before, silent = counters(pod), silences(pod)
        said = ask(client, to)
        after = counters(pod)
        if said != f"hello {to}":
            return said
        way = next(way for way, name in (("direct", direct), ("proxy", proxy)) if after[name] > before[name])
        if way == "direct" or silences(pod) == silent:
            return way


def way_out(pod, to):
    """How a connection of the pod to there goes now: "direct", "proxy", or how it has failed."""
    return _way(pod, pod, to, "direct_outside_connections", "outbound_captured_connections")


def way_in(client, pod, to):
    """The same of a connection from outside to the pod."""
    return _way(pod, client, to, "direct_inbound_lookups", "inbound_plaintext_lookups")


def wait_room(node):
    """Until connections may go directly again that had no room in the list of flows: programs in the kernel remember for a second
    that it was full."""
    full = lambda: dump(node, "flows_full")[0][1]
    wait_for(lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC) - full() > 1_000_000_000, "a second to pass")


class Waiting:
    """A connection of the pod that was begun, and waits for somebody to take it."""

    def __init__(self, pod, to):
        self.program = pod.popen("/usr/bin/python3", "-u", "-c", PATIENT, to)
        self.program.wait_for_text("CONNECTED")

    def waits(self):
        return "SAID" not in self.program.text()

    def answer(self):
        """Once there is one."""
        self.program.wait_for_text("SAID", timeout=60)
        return re.search(r"SAID (.*)", self.program.text())[1]


class Dialer:
    """Connections of the pod to these addresses all the time."""

    def __init__(self, pod, *to):
        self.to = to
        self.program = pod.popen("/usr/bin/python3", "-u", "-c", DIALER, *to)

    def results(self, to):
        return re.findall(rf"DIALED {re.escape(to)} (\S+)", self.program.text())

    def goes_on(self, count=3):
        """Until each address was reached so many times more."""
        before = {to: self.results(to).count("ok") for to in self.to}
        for to in self.to:
            wait_for(
                lambda to=to: self.results(to).count("ok") >= before[to] + count,
                f"{to} to be reached; last {self.results(to)[-3:]}",
                60,
            )

    def stop(self):
        """How the connections ended that did not end well: {address: {how}}."""
        self.program.kill()
        return {to: set(self.results(to)) - {"ok"} for to in self.to}
