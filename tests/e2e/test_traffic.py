# SPDX-License-Identifier: Apache-2.0
"""Applications' traffic through two nodes with real agents, plugins and proxies. Who survives whom:
test_traffic_life.py."""

import re
import time

import pytest

from support import network
from support.nodes.pod_programs import ONE_SHOT, SEND, TOGETHER
from support.system import wait_for


@pytest.fixture(scope="module")
def mesh(mesh_of_two):
    return mesh_of_two


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_pod_to_pod_on_the_other_node(mesh, family):
    assert mesh.web.python(ONE_SHOT, mesh.shop.ips[family], 8080, "ping") == "ping"
    line = wait_for(
        lambda: [
            x
            for x in mesh.nodes[0].access_log()
            if f"[{mesh.shop.ip6}]:15008" in x or f"{mesh.shop.ip}:15008" in x
        ],
        "the outbound line",
    )[-1]
    assert f'src.identity="{mesh.web.identity}"' in line and f'dst.identity="{mesh.shop.identity}"' in line
    wait_for(
        lambda: [
            x for x in mesh.nodes[1].access_log() if 'direction="inbound"' in x and mesh.web.identity in x
        ],
        "the inbound line",
    )


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_pod_to_pod_on_the_same_node(mesh, family):
    assert mesh.web.python(ONE_SHOT, mesh.near.ips[family], 8080, "ping") == "ping"
    wait_for(
        lambda: [
            x for x in mesh.nodes[0].access_log() if mesh.near.identity in x and 'direction="inbound"' in x
        ],
        "the inbound line",
    )


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_the_server_sees_the_clients_address(mesh, family):
    echo = mesh.shop.processes[0]
    mesh.web.python(ONE_SHOT, mesh.shop.ips[family], 8080, "x")
    source = ["::ffff:" + mesh.web.ip, mesh.web.ip6][family]
    wait_for(lambda: f"FROM {source} " in echo.text(), f"{source} at the server")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_outside_to_mesh_in_plaintext(mesh, family):
    assert mesh.outside.python(ONE_SHOT, mesh.shop.ips[family], 8080, "plain") == "plain"
    wait_for(
        lambda: [
            x
            for x in mesh.nodes[1].access_log()
            if f"src.addr={mesh.outside.ip}:" in x or f"src.addr=[{mesh.outside.ip6}]:" in x
        ],
        "the inbound plaintext line",
    )


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_mesh_to_outside_is_passed_through(mesh, family):
    assert mesh.web.python(ONE_SHOT, mesh.outside.ips[family], 8080, "plain") == "plain"


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_the_application_and_the_proxy_may_have_one_port_to_one_destination(mesh, family):
    """Connections that are passed on have the pod's address at both ends of the proxy. Both sockets may get
    the same port from the kernel, as only the application's is bound to lo; with so few ports they do.
    Neither may hear what is meant for the other."""
    ports = "/proc/sys/net/ipv4/ip_local_port_range"
    usual = mesh.web.run("cat", ports).stdout
    mesh.web.run("sh", "-c", f"echo 40000 40059 >{ports}")
    try:
        assert mesh.web.python(TOGETHER, mesh.outside.ips[family], 45, timeout=60).strip() == "45"
    finally:
        mesh.web.run("sh", "-c", f"echo {usual.strip()} >{ports}")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_mesh_to_outside_leaves_by_the_device_that_leads_there(mesh, family):
    """A pod with two devices; the second is added while it runs."""
    near, far = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"))[family]
    network.veth(mesh.web.netns, "second", mesh.outside.netns, "second")
    try:
        for pod, address in ((mesh.web, near), (mesh.outside, far)):
            network.address(pod.netns, "second", f"{address}/{64 if family else 24}")
        before = len(mesh.nodes[0].access_log())
        assert mesh.web.python(TOGETHER, far, 20, timeout=60).strip() == "20"
        wait_for(
            lambda: sum(f"{far}" in line for line in mesh.nodes[0].access_log()[before:]) == 20,
            "the proxy to have passed them on",
        )
        assert mesh.web.python(TOGETHER, mesh.outside.ips[family], 20, timeout=60).strip() == "20"
    finally:
        network.run(["ip", "-n", mesh.web.netns, "link", "del", "second"])


def test_own_address_and_loopback(mesh):
    for address in (mesh.shop.ip, mesh.shop.ip6, "127.0.0.1", "::1"):
        assert mesh.shop.python(ONE_SHOT, address, 8080, "self") == "self", address


each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


@each_family
def test_server_first_protocol(mesh, family):
    code = """
import socket, sys
s = socket.create_connection((sys.argv[1], 2525), timeout=20)
f = s.makefile("rwb")
print(f.readline().decode().strip())
f.write(b"helo\\n"); f.flush()
print(f.readline().decode().strip())
"""
    for client in (mesh.web, mesh.outside):
        assert client.python(code, mesh.shop.ips[family]).split("\n")[:2] == [
            "220 welcome",
            "250 helo",
        ], client.name


def test_one_gibibyte_arrives_intact(mesh):
    assert mesh.web.python(SEND, mesh.shop.ip, 9000, 1024, timeout=300).strip() == "same"


def test_64_mebibytes_in_plaintext_arrive_intact(mesh):
    assert mesh.outside.python(SEND, mesh.shop.ip, 9000, 64, timeout=120).strip() == "same"
    assert mesh.web.python(SEND, mesh.outside.ip, 9000, 64, timeout=120).strip() == "same"


def test_ten_thousand_short_connections_with_none_lost(mesh):
    code = """
import socket, sys, threading
ok = [0] * 8
def run(k):
    for i in range(1250):
        s = socket.create_connection((sys.argv[1], 8080), timeout=30)
        m = b"%d-%d" % (k, i)
        s.sendall(m)
        s.shutdown(socket.SHUT_WR)
        d = b""
        while True:
            c = s.recv(100)
            if not c:
                break
            d += c
        s.close()
        ok[k] += d == m
threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(ok))
"""
    assert mesh.web.python(code, mesh.shop.ip, timeout=300).strip() == "10000"


@each_family
def test_half_close_towards_the_server(mesh, family):
    for client, server in ((mesh.web, mesh.shop), (mesh.outside, mesh.shop), (mesh.web, mesh.outside)):
        assert client.python(ONE_SHOT, server.ips[family], 8080, "half closed") == "half closed", (
            client.name,
            server.name,
        )


@each_family
def test_half_close_towards_the_client(mesh, family):
    server = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.sendall(b"first")
    c.shutdown(socket.SHUT_WR)
    d = b""
    while True:
        x = c.recv(100)
        if not x:
            break
        d += x
    print("GOT", d.decode(), flush=True)
    c.close()
"""
    port = 7001 + family
    p = mesh.shop.server(server, port)
    code = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
d = b""
while True:
    x = s.recv(100)
    if not x:
        break
    d += x
s.sendall(b"after the end")
s.close()
print(d.decode())
"""
    for times, client in enumerate((mesh.web, mesh.outside), 1):
        assert client.python(code, mesh.shop.ips[family], port).strip() == "first", client.name
        wait_for(
            lambda times=times: p.text().count("GOT after the end") == times,
            "what was sent after the server's end",
        )


@each_family
def test_reset_of_the_client_reaches_the_server(mesh, family):
    echo = mesh.shop.processes[0]
    code = """
import socket, struct, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"x"); s.recv(1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
"""
    for client in (mesh.web, mesh.outside):
        before = echo.text().count("ERROR ConnectionResetError")
        client.python(code, mesh.shop.ips[family])
        wait_for(
            lambda before=before: echo.text().count("ERROR ConnectionResetError") > before,
            f"the reset of {client.name} at the server",
        )


@each_family
def test_reset_of_the_server_reaches_the_client(mesh, family):
    server = """
import socket, struct, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.recv(1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
"""
    code = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.sendall(b"x")
try:
    print("data" if s.recv(1) else "end")
except ConnectionResetError:
    print("reset")
"""
    port = 7200 + family
    for pod in (mesh.shop, mesh.outside):
        pod.server(server, port)
    for client, to in ((mesh.web, mesh.shop), (mesh.outside, mesh.shop), (mesh.web, mesh.outside)):
        assert client.python(code, to.ips[family], port).strip() == "reset", (client.name, to.name)


def test_closed_port_resets_the_client(mesh):
    code = """
import socket, sys
try:
    # the reset may come while connect() is still returning
    s = socket.create_connection((sys.argv[1], 4444), timeout=20)
    print("data" if s.recv(1) else "end")
except ConnectionResetError:
    print("reset")
"""
    for target in (mesh.shop.ip, mesh.shop.ip6, mesh.outside.ip):
        assert mesh.web.python(code, target).strip() == "reset", target


# Opens four connections and sends until nobody has taken anything for two seconds; or is the one who takes nothing.
PUSH = """
import socket, sys, time
role, port, to = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def push(all):
    total, end = 0, time.time() + 30
    for s in all:
        s.setblocking(False)
    last = time.time()
    while time.time() < min(end, last + 2):
        for s in all:
            try:
                total += s.send(b"x" * 65536)
                last = time.time()
            except BlockingIOError:
                pass
        time.sleep(0.001)
    print("FULL" if time.time() < end else "STILL TAKEN", total, flush=True)
if role.startswith("server"):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("READY", flush=True)
    all = [s.accept()[0] for i in range(4)]
else:
    all = [socket.create_connection((to, port), timeout=20) for i in range(4)]
if role.endswith("pushes"):
    push(all)
time.sleep(60)
"""


def kernel_holds(pod):
    """What the two buffers of a connection may grow to, in bytes."""
    text = pod.run("cat", "/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/net/ipv4/tcp_wmem").stdout
    return sum(int(line.split()[2]) for line in text.splitlines())


@pytest.mark.parametrize("who", ["client pushes", "server pushes"])
@pytest.mark.parametrize("where", ["in the mesh", "plaintext"])
def test_a_peer_that_never_reads_costs_bounded_memory(mesh, who, where):
    port = 7100 + (who == "server pushes") + 2 * (where == "plaintext")
    client = mesh.web if where == "in the mesh" else mesh.outside
    roles = (
        ("server reads nothing", "client pushes")
        if who == "client pushes"
        else ("server pushes", "client reads nothing")
    )
    server = mesh.shop.server(PUSH, roles[0], port, "-")
    before = [n.proxy.resident_bytes() // 1024 for n in mesh.nodes]
    p = client.popen("/usr/bin/python3", "-u", "-c", PUSH, roles[1], port, mesh.shop.ip)
    pusher = p if who == "client pushes" else server
    wait_for(lambda: re.search("FULL|STILL", pusher.text()) or not pusher.alive(), "the one who sends", 60)
    taken = re.search(r"FULL (\d+)", pusher.text())
    assert taken, f"what nobody reads piles up somewhere: {pusher.text()}"
    # What the kernel holds at most: three connections, one behind the other, each with a buffer at both ends.
    assert int(taken[1]) < 4 * (3 * kernel_holds(client) + (1 << 20)), pusher.text()
    after = [n.proxy.resident_bytes() // 1024 for n in mesh.nodes]
    assert max(b - a for a, b in zip(before, after, strict=True)) < 4 * 16 * 1024, (before, after)
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "others go on") == "others go on"
    p.kill()
    server.kill()


# ---- policies ----

DENY_WEB = {
    "name": "no-web",
    "namespace": "demo",
    "scope": "Namespace",
    "action": "Deny",
    "dryRun": False,
    "rules": [[[{"principals": [{"Exact": "cluster.local/ns/demo/sa/web"}], "destinationPorts": [8080]}]]],
}

TRY = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 8080), timeout=20)
    s.sendall(b"x")
    print("allowed" if s.recv(1) == b"x" else "end")
except ConnectionResetError:
    print("refused")
"""


@pytest.fixture
def policies(mesh):
    yield mesh.policies
    mesh.policies.clear()
    mesh.write()
    for pod in (mesh.web, mesh.outside):
        wait_for(
            lambda pod=pod: pod.python(TRY, mesh.shop.ip).strip() == "allowed",
            f"access of {pod.name} after the policy is gone",
        )


def test_policy_denies_by_identity_and_names_itself(mesh, policies):
    policies.append(DENY_WEB)
    mesh.write()
    wait_for(lambda: mesh.web.python(TRY, mesh.shop.ip).strip() == "refused", "the refusal")
    assert mesh.outside.python(TRY, mesh.shop.ip).strip() == "allowed", "others are not concerned"
    wait_for(
        lambda: (
            mesh.web.python(TRY, mesh.shop.ip).strip() == "refused"
            and "demo/no-web" in mesh.nodes[1].proxy.text()
        ),
        "the policy's name in the log",
    )
    wait_for(
        lambda: re.search(
            r'istio_tcp_connections_failed_total\{[^}]*response_flags="DENY"', mesh.nodes[1].metrics()
        ),
        "flag DENY",
    )
    assert 'bruma_failures_total{reason="policy_denied"}' in mesh.nodes[1].metrics()


def test_plaintext_is_refused_under_strict(mesh, policies):
    mesh.deny_strangers()
    mesh.write()
    wait_for(lambda: mesh.outside.python(TRY, mesh.shop.ip).strip() == "refused", "the refusal of plaintext")
    assert mesh.web.python(TRY, mesh.shop.ip).strip() == "allowed"


def test_live_connection_is_cut_by_a_policy_and_others_live(mesh, policies):
    code = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=60)
o = socket.create_connection((sys.argv[1], 9000), timeout=60)
s.sendall(b"x"); s.recv(1)
print("OPEN", flush=True)
try:
    print("CUT" if s.recv(1) == b"" else "data", flush=True)
except ConnectionResetError:
    print("CUT", flush=True)
o.sendall(b"still"); o.shutdown(socket.SHUT_WR)
print("OTHER", len(o.recv(64)), flush=True)
"""
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", code, mesh.shop.ip)
    wait_for(lambda: "OPEN" in p.text(), "the connection")
    policies.append(DENY_WEB)
    mesh.write()
    wait_for(lambda: "CUT" in p.text(), "the cut")
    wait_for(lambda: "OTHER 64" in p.text(), "the other stream of the tunnel")
    wait_for(lambda: "policy change" in mesh.nodes[1].proxy.text(), "the reason in the log")


def test_live_plaintext_connection_is_cut_by_a_policy(mesh, policies):
    code = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
s.sendall(b"x"); s.recv(1) if sys.argv[2] == "8080" else None
print("OPEN", flush=True)
try:
    print("CUT" if s.recv(1) == b"" else "data", flush=True)
except ConnectionResetError:
    print("CUT", flush=True)
"""
    p, other = (
        mesh.outside.popen("/usr/bin/python3", "-u", "-c", code, mesh.shop.ip6, port) for port in (8080, 9000)
    )
    wait_for(lambda: "OPEN" in p.text() and "OPEN" in other.text(), "the connections")
    mesh.deny_strangers(destinationPorts=[8080])
    mesh.write()
    wait_for(lambda: "CUT" in p.text(), "the cut")
    time.sleep(0.3)
    assert other.alive() and "CUT" not in other.text(), "another port is not concerned"
    other.kill()
