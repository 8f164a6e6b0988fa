# SPDX-License-Identifier: Apache-2.0
"""Deliveries to applications carry the client's address and a port of the pod's: the ports must not run out.
That they do not meet those of others: test_ports_meet.py."""

import pytest

from support.nodes.mesh import Mesh
from support.system import wait_for

# Few enough that a leak of any kind is seen within seconds; one client goes round them several times.
PORTS = 256
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
def accept():
    while True:
        serve(s.accept()[0])
threads = [threading.Thread(target=accept) for _ in range(32)]
[t.start() for t in threads]; [t.join() for t in threads]
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
# All open at once; each asks and is answered, once at the beginning and once at the end.
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


def few_ports(pod, count, first=40000):
    pod.run("sh", "-c", f"echo {first} {first + count - 1} >/proc/sys/net/ipv4/ip_local_port_range")


def make(**settings):
    m = Mesh(nodes=2, proxy_env=settings)
    m.web, m.far = m.pod("web", node=0), m.pod("far", node=0, namespace="outside")
    m.shop = m.pod("shop", node=1)
    m.far.outside = True
    few_ports(m.shop, PORTS)
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
    client = mesh.web if way == "hbone" else mesh.far
    holds = []
    # How many rest at once depends on how fast connections come; then it grows no more.
    while len(holds) < 4 and (len(holds) < 2 or holds[-1] > holds[-2] + PORTS // 4):
        said = many(client, mesh, family, ends)
        assert said[0].strip() == "0", said
        holds.append(held(mesh.shop))
    assert holds[-1] <= holds[-2] + PORTS // 4, "what TIME_WAIT holds grows with the number of connections"
    assert "bruma_client_addresses_hidden" not in mesh.nodes[1].metrics()


def held(pod):
    """Ports of the pod's range that a delivery has, or that TIME_WAIT keeps after one."""
    lines = pod.run("ss", "-Htan").stdout.splitlines()
    ends = [line.split()[3] for line in lines if not line.startswith("LISTEN")]
    return len({e for e in ends if 40000 <= int(e.rpartition(":")[2]) < 40000 + PORTS})


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
