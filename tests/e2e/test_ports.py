# SPDX-License-Identifier: Apache-2.0
"""Deliveries to applications carry the client's address and a port of the pod's: the ports must not run out.
That they do not meet those of others: test_ports_meet.py."""

import time

import pytest

from support.nodes.direct import LONG
from support.nodes.mesh import Mesh
from support.nodes.pod import PYTHON
from support.system import wait_for

# Few enough that a leak of any kind is seen within seconds; one client goes round them several times.
FIRST, PORTS = 40000, 256
COUNT = 1500

# Answers each connection and leaves the end to the client, or ends it itself ("first").
SERVER = """
import socket, sys, threading
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
print("READY", flush=True)
def serve(c):
    try:
        while d := c.recv(100):
            c.sendall(d)
            if sys.argv[2] == "first":
                break
        c.close()
    except OSError as e:
        print(e, flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
# One connection after the other, from so many threads.
CLIENT = """
import socket, sys, threading, time
to, port, count, ends = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
failed = []
def run(n):
    for _ in range(n):
        try:
            with socket.create_connection((to, port), timeout=10) as s:
                s.sendall(b"x")
                assert s.recv(1) == b"x"
                if ends == "server":
                    assert s.recv(1) == b""
        except (OSError, AssertionError) as e:
            failed.append(repr(e))
            if len(failed) > 20:
                return
threads = [threading.Thread(target=run, args=(count // 4,)) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(failed), *failed[:3])
"""
# All open at once; each asks and is answered, once at the end.
HOLD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
good, live = 0, []
for _ in range(int(sys.argv[3])):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    live.append(s)
for s in live:
    try:
        s.sendall(b"x")
        good += s.recv(1) == b"x"
    except OSError:
        pass
print(good)
sys.stdout.flush()
sys.stdin.read()
"""
# All open at once, until the word; then each asks, is answered and ends.
AT_ONCE = """
import socket, sys
live = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) for _ in range(int(sys.argv[3]))]
print("OPEN", flush=True)
sys.stdin.readline()
good = 0
for s in live:
    s.sendall(b"x")
    good += s.recv(1) == b"x" and (sys.argv[4] == "client" or s.recv(1) == b"")
    s.close()
print(good)
"""


def few_ports(pod, count, first=FIRST):
    pod.run("sh", "-c", f"echo {first} {first + count - 1} >/proc/sys/net/ipv4/ip_local_port_range")


def make(**settings):
    m = Mesh(nodes=2, agent_options=LONG, proxy_env=settings)
    m.web, m.far = m.pod("web", node=0), m.pod("far", node=0, namespace="outside")
    m.shop = m.pod("shop", node=1)
    m.far.outside = True
    few_ports(m.shop, PORTS)
    for client in (m.web, m.far):
        few_ports(client, 10000, FIRST + 10000)
    return m


def begin(m):
    m.start()
    m.shop.server(SERVER, 8080, "last")
    m.shop.server(SERVER, 8081, "first")


@pytest.fixture(scope="module")
def mesh():
    with make() as m:
        begin(m)
        yield m


@pytest.fixture(scope="module")
def own_address():
    with make(ENABLE_ORIG_SRC="false") as m:
        begin(m)
        yield m


def many(client, mesh, family, ends):
    to = [mesh.shop.ip, mesh.shop.ip6][family]
    return client.python(CLIENT, to, 8080 if ends == "client" else 8081, COUNT, ends, timeout=120).split(
        " ", 1
    )


families = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


@families
@pytest.mark.parametrize("ends", ["client", "server"])
@pytest.mark.parametrize("way", ["hbone", "plaintext"])
def test_one_client_does_not_use_up_the_ports_of_a_pod(mesh, way, ends, family):
    """How many ports it takes is a matter of how many connections there are within the time that a port rests: more on a busy
    machine. Whatever it was: once all have rested they are enough for as many connections at a time, so none is lost."""
    client = mesh.web if way == "hbone" else mesh.far
    said = many(client, mesh, family, ends)
    assert said[0].strip() == "0", said
    rest(mesh.shop)
    before = ports(mesh.shop)
    at_once(client, mesh, family, ends, len(before))
    rest(mesh.shop)
    assert ports(mesh.shop) <= before, "a port that nothing has any more is not used again"
    assert "bruma_client_addresses_hidden" not in mesh.nodes[1].metrics()


def at_once(client, mesh, family, ends, count):
    to, port = [mesh.shop.ip, mesh.shop.ip6][family], 8080 if ends == "client" else 8081
    program = client.pipe(PYTHON, "-c", AT_ONCE, to, port, count, ends, stdin=-1, stdout=-1, text=True)
    try:
        assert program.stdout.readline() == "OPEN\n"
        wait_for(lambda: len(ports(mesh.shop, "ESTAB")) == count, "all to be there at once")
        assert program.communicate("\n", timeout=60)[0] == f"{count}\n"
    finally:
        program.kill()


def rest(pod):
    """Until every delivery is over, for the proxy too, and its port may be used again."""
    metrics = pod.node.metrics
    wait_for(lambda: not ports(pod, "ESTAB"), "the deliveries to end")
    wait_for(
        lambda: 'istio_tcp_sockets_open{reporter="destination"} 0' in metrics(),
        "the proxy to have ended them",
    )
    time.sleep(0.15)  # REST_MILLISECONDS of proxy/worker/delivery_ports.c, and the tick of its clock


def ports(pod, state=""):
    """Ports that a delivery comes from; what TIME_WAIT keeps of one is at the side that was the first to end it."""
    found = set()
    for line in pod.run("ss", "-Htan").stdout.splitlines():
        its, _, _, *ends = line.split()[:5]
        if its.startswith(state) and its != "LISTEN":
            found |= {int(end.rpartition(":")[2]) for end in ends}
    return {p for p in found if FIRST <= p < FIRST + PORTS}


@families
@pytest.mark.parametrize("ends", ["client", "server"])
def test_neither_do_those_that_come_from_its_own_address(own_address, ends, family):
    said = many(own_address.web, own_address, family, ends)
    assert said[0].strip() == "0", said


def test_where_no_port_is_left_the_connection_comes_from_the_pods_own_address():
    ports, more = 32, 20
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        few_ports(m.shop, ports)
        m.start()
        m.shop.server("""
import os, socket, threading
s = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
print("READY", flush=True)
def serve(c, a):
    os.write(1, b"FROM %s %d\\n" % (a[0].encode(), a[1]))
    while d := c.recv(100):
        c.sendall(d)
    c.close()
while True:
    threading.Thread(target=serve, args=s.accept(), daemon=True).start()
""")
        holder = m.web.popen(
            "/usr/bin/python3",
            "-c",
            HOLD.replace("sys.stdin.read()", "import time; time.sleep(60)"),
            m.shop.ip,
            8080,
            ports + more,
        )
        wait_for(lambda: holder.text().strip(), "the connections' answers", 60)
        assert int(holder.text()) == ports + more
        seen = m.shop.processes[0].text()
        hidden = seen.count(f"FROM ::ffff:{m.shop.ip} ")
        # A listener of the mesh may have a port of that range.
        assert more <= hidden <= more + 3 and hidden + seen.count(f"FROM ::ffff:{m.web.ip} ") == ports + more
        assert f"bruma_client_addresses_hidden_total {hidden}" in m.nodes[1].metrics()
        log = [
            line for line in m.nodes[1].proxy.text().splitlines() if "reason=client_address_hidden" in line
        ]
        assert len(log) == 1 and f"client={m.web.ip}" in log[0] and 'pod="demo/shop"' in log[0]
        holder.kill()
        # With the ports back it is the client's address again.
        wait_for(lambda: not held_by(m.shop, "ESTAB"), "the connections' end")
        n = m.shop.processes[0].text().count(f"FROM ::ffff:{m.web.ip} ")
        assert m.web.python(HOLD, m.shop.ip, 8080, 1, input="").strip() == "1"
        wait_for(
            lambda: m.shop.processes[0].text().count(f"FROM ::ffff:{m.web.ip} ") == n + 1,
            "the client's address",
        )


def held_by(pod, state):
    return [
        line
        for line in pod.run("ss", "-Htan").stdout.splitlines()
        if line.startswith(state) and ":8080" in line
    ]
