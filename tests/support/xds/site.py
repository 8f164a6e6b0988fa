# SPDX-License-Identifier: Apache-2.0
"""A node whose proxy listens to a control plane of the tests alone, and crowds of workloads for it."""

import re
import socket
import time

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.system import wait_for
from support.xds.control_plane import ADDRESS, AUTHORIZATION
from support.xds.plane import END, Plane

POLICY_TIMEOUT = 4
CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(float(sys.argv[3]) if len(sys.argv) > 3 else 20)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b"ping")
    print(s.recv(4).decode() or "closed")
except OSError as e:
    print(type(e).__name__)
"""


class Site:
    """A mesh of one node with two pods; the proxy listens to the plane alone."""

    def __init__(self):
        self.mesh = Mesh(nodes=1)
        node = self.mesh.nodes[0]
        self.plane = Plane(f"{self.mesh.dir}/plane", node.netns)
        self.mesh.proxy_env.update(self.plane.env())
        self.mesh.proxy_env["BRUMA_POLICY_TIMEOUT"] = f"{POLICY_TIMEOUT}s"
        self.web, self.shop = self.mesh.pod("web", node=0), self.mesh.pod("shop", node=0)
        self.node = node

    def start(self):
        self.plane.set(self.of(self.web), self.of(self.shop))
        self.mesh.start()
        self.shop.server(ECHO, "8080")

    def of(self, pod, **fields):
        return self.plane.of(pod, **fields)

    def ping(self, address=None, port=8080, seconds=20):
        return self.web.python(CLIENT, address or self.shop.ip, port, seconds).strip()

    def workloads(self):
        return {w["name"]: w for w in self.node.config_dump()["workloads"]}

    def logged(self, text):
        """Lines of the access log may come a little later."""
        wait_for(lambda: text in self.node.proxy.text(), f"{text} in the proxy's log")

    def stream(self):
        return self.plane.streams[-1]


def crowd(plane, count):
    """(name, (version, bytes)): as a busy cluster has them. Made by hand, for protobuf's Python takes too
    long for 100,000."""
    name, sample = plane.workload(
        "checkout-service-canary-europe-7c9d8b6f5d-00000000",
        "10.200.0.0",
        node="another-node-of-this-cluster",
    )
    data = sample.SerializeToString()
    old, address = b"00000000", socket.inet_aton("10.200.0.0")
    out = {}
    for i in range(count):
        tag = f"{i:08d}"
        out[name.replace("00000000", tag)] = (
            f"{i:016x}",
            data.replace(old, tag.encode()).replace(
                address, bytes([11 + (i >> 16), i >> 8 & 255, i & 255, 1])
            ),
        )
    assert len(name) > 60
    return out


def known(site):
    return len(site.node.config_dump()["workloads"])


def wait_known(site, count, what, seconds=60):
    """A page of very many is not asked for again and again: it is work for the proxy, and for this
    process."""

    def look():
        time.sleep(min(2, count / 50000))
        return known(site) == count

    wait_for(look, what, seconds)


def metric(site, name):
    found = re.search(rf"^{name} (\d+)", site.node.metrics(), re.M)
    return int(found[1]) if found else 0


def add(site, items):
    with site.plane.lock:
        site.plane.resources[ADDRESS].update(items)
        site.plane.respond(site.stream(), ADDRESS, items)


def end_stream(site, seconds=60):
    """Ended by the server; returns the first request of the next one, once all of it has come."""
    before = len(site.plane.streams)
    site.stream().out.put(END)
    wait_for(
        lambda: (
            len(site.plane.streams) > before
            and site.stream().first(ADDRESS)
            and site.stream().first(AUTHORIZATION)
        ),
        "the first requests of a new stream",
        seconds,
    )
    return site.stream().first(ADDRESS)


def failed_connects(site):
    """Of the proxy to the control plane."""
    count = re.search(
        r'^istio_xds_connection_terminations_total\{reason="ConnectionError"\} (\d+)',
        site.node.metrics(),
        re.M,
    )
    return int(count[1]) if count else 0
