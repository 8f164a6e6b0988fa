# SPDX-License-Identifier: Apache-2.0
"""Deliveries to applications carry the client's address and a port that the pod's kernel chooses. The same
client may choose that port by itself, before or after: neither connection may hear what is meant for the
other."""

import contextlib
import subprocess

import pytest

from support.nodes.direct import LONG
from support.nodes.mesh import Mesh
from support.system import placed, wait_for

PORTS = 256

KEEP_ONE = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
s.sendall(b"x")
assert s.recv(1) == b"x"
print("up", flush=True)
sys.stdin.read()
"""


# Connections from ports that the client chooses by itself: each asks, and once all are open, asks again.
CHOOSE = """
import random, socket, sys, threading
to, first, count, of = sys.argv[1], *map(int, sys.argv[2:5])
ports = random.Random(7).sample(range(first, first + of), count)
v6 = ":" in to
live, failed = [], []
def run(mine):
    for port in mine:
        s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
        s.settimeout(4)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("::" if v6 else "", port))
            s.connect((to, 8082))
            s.sendall(b"x")
            assert s.recv(1) == b"x"
            live.append(s)
        except (OSError, AssertionError) as e:
            failed.append((port, repr(e)))
threads = [threading.Thread(target=run, args=(ports[i::8],)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
for s in live:
    try:
        s.sendall(b"y")
        assert s.recv(1) == b"y"
    except (OSError, AssertionError) as e:
        failed.append((s.getsockname()[1], repr(e)))
print(len(failed), failed[:3])
"""
# Says where each connection comes from, and serves all at once.
KEEPER = """
import os, socket, threading
s = socket.create_server(("::", 8082), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
print("READY", flush=True)
def serve(c, a):
    os.write(1, b"FROM %s %d\\n" % (a[0].encode(), a[1]))
    try:
        while d := c.recv(100):
            c.sendall(d)
    except OSError:
        pass
    c.close()
while True:
    threading.Thread(target=serve, args=s.accept(), daemon=True).start()
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=LONG) as m:
        m.web, m.far = m.pod("web", node=0), m.pod("far", node=0, namespace="outside")
        m.shop = m.pod("shop", node=1)
        m.far.outside = True
        m.shop.run("sh", "-c", f"echo 40000 {40000 + PORTS - 1} >/proc/sys/net/ipv4/ip_local_port_range")
        m.start()
        yield m


@pytest.fixture(scope="module")
def keeper(mesh):
    return mesh.shop.server(KEEPER)


@contextlib.contextmanager
def socket_in(pod, to):
    """A connection of the pod, made as one of its own processes would."""
    with subprocess.Popen(
        placed(["/usr/bin/python3", "-u", "-c", KEEP_ONE, *map(str, to)], pod.netns, pod.node.cgroup),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as p:
        assert p.stdout.readline() == "up\n"
        yield
        p.stdin.close()


families = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


@families
def test_ports_that_a_client_chooses_do_not_meet_those_of_deliveries(mesh, keeper, family):
    """A load balancer, or anything that is not Linux, takes ports as it likes; here from the very range that
    its deliveries are from."""
    to = [mesh.shop.ip, mesh.shop.ip6][family]
    assert mesh.far.python(CHOOSE, to, 40000, 100, PORTS, timeout=120).strip() == "0 []"


# One connection from any port, one from the port that its delivery has; then both in turn.
SAME = """
import socket, sys
to, port = sys.argv[1], int(sys.argv[2])
def ask(s, what):
    s.sendall(what)
    return s.recv(1) == what
a = socket.create_connection((to, port), timeout=5)
assert ask(a, b"a")
print("first", flush=True)
taken = int(sys.stdin.readline())
b = socket.socket(a.family)
b.settimeout(5)
b.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
b.bind(("", taken))
b.connect((to, port))
print(*[ask(s, what) for what in (b"1", b"2", b"3") for s in (b, a)], flush=True)
a.close()
assert a.fileno() == -1 and ask(b, b"4")
b.shutdown(socket.SHUT_WR)
print("end" if b.recv(1) == b"" else "more")
"""


@families
def test_a_client_may_take_the_port_of_its_own_delivery(mesh, keeper, family):
    to, source = ((mesh.shop.ip, "::ffff:" + mesh.far.ip), (mesh.shop.ip6, mesh.far.ip6))[family]
    before = keeper.text().count("FROM")
    with subprocess.Popen(
        placed(["/usr/bin/python3", "-u", "-c", SAME, to, 8082], mesh.far.netns, mesh.nodes[0].cgroup),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as p:
        assert p.stdout.readline() == "first\n"
        who, port = wait_for(lambda: keeper.text().split("FROM ")[before + 1 :], "the delivery")[-1].split()
        assert who == source
        out, _ = p.communicate(port + "\n", timeout=60)
    assert out == "True True True True True True\nend\n", out


def test_what_an_application_accepts_is_bound_to_where_it_comes_from(mesh, keeper):
    """What was delivered to lo; what it accepts from its own pod to nothing."""
    with socket_in(mesh.web, (mesh.shop.ip, 8082)), socket_in(mesh.shop, (mesh.shop.ip, 8082)):
        wait_for(lambda: mesh.web.ip in keeper.text(), "the delivery")
        lines = [
            line.split()
            for line in mesh.shop.run(
                "ss", "-Htn", "state", "established", "sport", "=", ":8082"
            ).stdout.splitlines()
        ]
        bound = {
            fields[3].strip("[]").rpartition(":")[0].strip("[]").removeprefix("::ffff:"): fields[2]
            for fields in lines
        }
        assert "%lo:" in bound[mesh.web.ip] and "%" not in bound[mesh.shop.ip], bound
