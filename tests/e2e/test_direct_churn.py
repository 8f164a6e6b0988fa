# SPDX-License-Identifier: Apache-2.0
"""A mesh that never stands still, under connections that never stop: to an address of the mesh none is made in plaintext, at no
moment. What the pod sends is seen at its end of the wire.

Workloads are updated, replaced by others at the same address, and come and go; connections go to those that are always there, to
some just after the proxy has acknowledged them, and to outside the mesh. BRUMA_CHURN_SECONDS and BRUMA_CHURN_WORKLOADS are for
longer runs: 30 and 100000 are those of the issue that this was built for, at 1,000 updates and 2,000 connections a second."""

import os
import random
import subprocess
import threading
import time

import pytest

from support.direct import DirectMaps
from support.nodes.mesh import Mesh
from support.nodes.pod import PYTHON
from support.nodes.pod_programs import ECHO
from support.system import run, wait_for
from support.wire.capture import Capture
from support.xds.plane import Plane

SECONDS = float(os.environ.get("BRUMA_CHURN_SECONDS", "6"))
WORKLOADS = int(os.environ.get("BRUMA_CHURN_WORKLOADS", "10000"))
UPDATES, CONNECTIONS = 1000, 2000  # a second, as far as the machine gets there
BATCH = 20  # of updates, in one response
TURNING = 200  # addresses of workloads that come and go
FRESH = 1 << 24  # behind 11.0.0.0: addresses that nobody had before

# Connects to outside the mesh, to those that turn and to those that stay, so many times a second; tells how many it was.
CLIENT = """
import random, socket, struct, sys, threading, time
outside, workloads, turning, rate = sys.argv[1], *map(int, sys.argv[2:5])
counts = [0, 0, 0]
def address(first, i):
    return socket.inet_ntoa(struct.pack("!I", first + i))
def dial(seed):
    r = random.Random(seed)
    begun, n = time.monotonic(), 0
    while True:
        kind = (0, 2, 2, 1)[n % 4] if n % 3 else 2
        to = outside if kind == 0 else address(0x0B800000, r.randrange(turning)) if kind == 1 else \\
            address(0x0B000000, r.randrange(workloads))
        s = socket.socket()
        s.settimeout(2)
        try:
            s.connect((to, 8080))
        except OSError:
            pass
        s.close()
        counts[kind] += 1
        n += 1
        ahead = n / (rate / 2) - (time.monotonic() - begun)
        if ahead > 0.01:
            time.sleep(ahead)
for i in range(2):
    threading.Thread(target=dial, args=(i,), daemon=True).start()
print("READY", flush=True)
sys.stdin.readline()
print("COUNTS", *counts, flush=True)
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
    with Mesh(nodes=1, agent_options=("--direct-outside", "true"), proxy_env={"RUST_LOG": "warn"}) as m:
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
    site.outside.server(ECHO, 8080)
    maps = DirectMaps(node)
    number = maps.wait_charge(timeout=60)
    wait_for(lambda: maps.page()["addresses"] >= WORKLOADS, "all of it in the maps", 60)
    with PlainSyns(node, f"{site.dir}/plain.pcap", link="vweb") as wire:
        numbers = map(str, (WORKLOADS, TURNING, CONNECTIONS))
        client = site.web.pipe(PYTHON, "-c", CLIENT, site.outside.ip, *numbers, **PIPES)
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
        churn.over.set()
        churn.join()
        outside, turning, staying = map(int, ask(client, "").split()[1:])
        for program in (client, one):
            program.kill()
            program.communicate()
    said = f"{churn.updates} updates and {outside + turning + staying} connections, {fresh} fresh, in {SECONDS} s"
    print(said)
    request.node.user_properties.append(("churn", said))
    assert fresh and staying and outside and churn.updates
    assert wire.packets("dst net 11.0.0.0/9") == 0, f"of those that are always there ({said})"
    assert wire.packets("dst net 11.192.0.0/10") == 0, f"of those that had just come ({said})"
    assert wire.packets("dst net 11.128.0.0/16") > 0, "those that turn are outside the mesh now and then"
    page = maps.page()
    assert page["inCharge"] and maps.holder() == number and page["failures"] == page["lost"] == 0, page
