# SPDX-License-Identifier: Apache-2.0
"""A mesh that never stands still, under connections that never stop: to an address of the mesh none is made in plaintext, at no
moment. What the pod sends is seen at its end of the wire.

Workloads are updated, replaced by others at the same address, and come and go; connections go to those that are always there, to
some just after the proxy has acknowledged them, and to outside the mesh. BRUMA_CHURN_SECONDS and BRUMA_CHURN_WORKLOADS are for
longer runs: 30 and 100000 are those of the issue that this was built for, at 1,000 updates and 2,000 connections a second. A
machine that has other things to do may not get there; with BRUMA_CHURN_LEAST=0.95 the test fails below that share of either."""

import os
import random
import subprocess
import threading
import time

import pytest

from support.direct import DirectMaps
from support.nodes.direct import WAYS
from support.nodes.mesh import Mesh
from support.nodes.pod import PYTHON
from support.programs import BUILD
from support.system import run, wait_for
from support.wire.capture import Capture
from support.xds.plane import Plane

SECONDS = float(os.environ.get("BRUMA_CHURN_SECONDS", "6"))
WORKLOADS = int(os.environ.get("BRUMA_CHURN_WORKLOADS", "10000"))
LEAST = float(os.environ.get("BRUMA_CHURN_LEAST", "0"))
UPDATES, CONNECTIONS = 1000, 2000  # a second, as far as the machine gets there
BATCH = 20  # of updates, in one response
TURNING = 200  # addresses of workloads that come and go
FRESH = 1 << 24  # behind 11.0.0.0: addresses that nobody had before

# Nobody is to wait for it.
TAKER = """
import socket
s = socket.create_server(("", 8080), backlog=1024)
print("READY", flush=True)
while True:
    s.accept()[0].close()
"""

# Connects to each address that it is told, and says when it has.
ONE_BY_ONE = """
import socket, sys
print("READY", flush=True)
for line in sys.stdin:
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect((line.strip(), 8080))
    except OSError:
        pass
    s.close()
    print("DONE", line.strip(), flush=True)
"""


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def ask(program, line):
    program.stdin.write(f"{line}\n")
    program.stdin.flush()
    return program.stdout.readline()


class PlainSyns(Capture):
    """At the pod's end: connections to where the mesh is that are no tunnels."""

    what = "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn and dst net 11.0.0.0/8 and not dst port 15008"


def address(i):
    return ".".join(str((0x0B000000 + i) >> shift & 255) for shift in (24, 16, 8, 0))


@pytest.fixture(scope="module")
def site():
    with Mesh(nodes=1, agent_options=WAYS, proxy_env={"RUST_LOG": "warn"}) as m:
        m.node = m.nodes[0]
        m.plane = Plane(f"{m.dir}/plane", m.node.netns)
        m.plane.page = 10000
        m.proxy_env.update(m.plane.env())
        try:
            m.web, m.outside = m.pod("web"), m.pod("outside", namespace="outside")
            m.outside.outside = True
            # All of it answers at once: nobody listens there.
            run(["ip", "-n", m.node.netns, "route", "add", "local", "11.0.0.0/8", "dev", "lo"])
            yield m
        finally:
            m.plane.stop()


class Churn(threading.Thread):
    """Updates of the mesh, a batch in each response."""

    def __init__(self, plane):
        super().__init__(daemon=True)
        self.plane, self.over, self.updates, self.versions = plane, threading.Event(), 0, {}
        self.rate = 0  # a second, in the end
        self.random, self.there = random.Random(5), set()

    def workload(self, i, version):
        """The one at that address; a later one is another one at the same address, or the same one again."""
        name, message = self.plane.workload(
            f"w{i}-{version // 2}",
            address(i),
            tunnel_protocol=1,
            node="elsewhere",
            service_account=f"v{version}",
        )
        return name, message.SerializeToString()

    def turning(self, i):
        name, message = self.plane.workload(
            f"t{i}", address(0x800000 + i), tunnel_protocol=1, node="elsewhere"
        )
        return name, message.SerializeToString()

    def all(self):
        self.versions = dict.fromkeys(range(WORKLOADS), 0)
        return [self.workload(i, 0) for i in self.versions]

    def batch(self):
        changed, gone = [], []
        for i in self.random.sample(range(WORKLOADS), BATCH - 4):
            before = self.workload(i, self.versions[i])[0]
            self.versions[i] += 1
            changed.append(self.workload(i, self.versions[i]))
            if changed[-1][0] != before:
                gone.append(before)
        for i in self.random.sample(range(TURNING), 4):
            name, _ = self.turning(i)
            if name in self.there:
                self.there.remove(name)
                gone.append(name)
            else:
                self.there.add(name)
                changed.append(self.turning(i))
        self.plane.set(*changed)
        self.plane.remove(*gone)
        self.updates += len(changed) + len(gone)

    def run(self):
        begun = time.monotonic()
        while not self.over.is_set():
            self.batch()
            time.sleep(max(0, self.updates / UPDATES - (time.monotonic() - begun)))
        self.rate = self.updates / (time.monotonic() - begun)

    def stop(self):
        self.over.set()
        self.join()


def acknowledged(plane, begin):
    """Does something and waits until the proxy has all that was sent before."""
    with plane.lock:
        begin()
        nonce = f"n{plane.nonce}"
    wait_for(
        lambda: any(r.response_nonce == nonce for s in plane.streams for r in s.requests[-40:]),
        "the proxy to acknowledge it",
        interval=0.002,
    )


def test_nothing_of_the_mesh_is_dialed_in_plaintext(site, request):
    plane, node, churn = site.plane, site.node, Churn(site.plane)
    plane.set(plane.of(site.web), *churn.all())
    site.start()
    site.outside.server(TAKER)
    maps = DirectMaps(node)
    number = maps.wait_charge(timeout=60)
    wait_for(lambda: maps.page()["addresses"] >= WORKLOADS, "all of it in the maps", 60)
    with PlainSyns(node, f"{site.dir}/plain.pcap", link="vweb") as wire:
        numbers = map(str, (WORKLOADS, TURNING, CONNECTIONS))
        client = site.web.pipe(f"{BUILD}/tests/e2e/churn-client", site.outside.ip, *numbers, **PIPES)
        one = site.web.pipe(PYTHON, "-c", ONE_BY_ONE, **PIPES)
        for program in (client, one):
            assert program.stdout.readline() == "READY\n"
        churn.start()
        fresh, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            to = address(FRESH - 1 - fresh)
            one_more = plane.workload(f"fresh{fresh}", to, tunnel_protocol=1, node="elsewhere")
            acknowledged(plane, lambda item=one_more: plane.set(item))
            assert ask(one, to) == f"DONE {to}\n"
            fresh += 1
        churn.stop()
        outside, turning, staying, neither, milliseconds = map(int, ask(client, "").split()[1:])
        for program in (client, one):
            program.kill()
            program.communicate()
    updates, connections = churn.rate, 1000 * (outside + turning + staying) / milliseconds
    said = f"{updates:.0f} updates and {connections:.0f} connections a second, {neither} came to nothing, {fresh} fresh"
    print(said)
    request.node.user_properties.append(("churn", said))
    assert updates >= LEAST * UPDATES and connections >= LEAST * CONNECTIONS, said
    assert fresh and staying and outside and churn.updates
    assert "\n0 packets dropped by kernel" in wire.process.text(), wire.process.last_words()
    assert wire.packets("dst net 11.0.0.0/9") == 0, f"of those that are always there ({said})"
    assert wire.packets("dst net 11.192.0.0/10") == 0, f"of those that had just come ({said})"
    assert wire.packets("dst net 11.128.0.0/16") > 0, "those that turn are outside the mesh now and then"
    page = maps.page()
    assert page["inCharge"] and maps.holder() == number and page["failures"] == page["lost"] == 0, page
