# SPDX-License-Identifier: Apache-2.0
"""Applications' traffic through two nodes with real agents, plugins and proxies."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from mesh import Mesh, placed, sh, wait_for
from pod_programs import ECHO, ONE_SHOT, SEND, SERVER_FIRST, SINK, STREAM
from support import network


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2) as m:
        m.web, m.shop, m.near = m.pod("web", node=0), m.pod("shop", node=1), m.pod("near", node=0)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.shop, m.near, m.outside):
            pod.server(ECHO, "8080")
            pod.server(SINK, "9000")
        m.shop.server(SERVER_FIRST, "2525")
        yield m


def addresses(pod):
    return [pod.ip, pod.ip6]


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_pod_to_pod_on_the_other_node(mesh, family):
    assert mesh.web.python(ONE_SHOT, addresses(mesh.shop)[family], 8080, "ping") == "ping"
    line = wait_for(lambda: [x for x in mesh.nodes[0].access_log() if f"[{mesh.shop.ip6}]:15008" in x or f"{mesh.shop.ip}:15008" in x],
                    "the outbound line")[-1]
    assert f'src.identity="{mesh.web.identity}"' in line and f'dst.identity="{mesh.shop.identity}"' in line
    wait_for(lambda: [x for x in mesh.nodes[1].access_log() if 'direction="inbound"' in x and mesh.web.identity in x], "the inbound line")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_pod_to_pod_on_the_same_node(mesh, family):
    assert mesh.web.python(ONE_SHOT, addresses(mesh.near)[family], 8080, "ping") == "ping"
    wait_for(lambda: [x for x in mesh.nodes[0].access_log() if mesh.near.identity in x and 'direction="inbound"' in x], "the inbound line")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_the_server_sees_the_clients_address(mesh, family):
    echo = mesh.shop.processes[0]
    mesh.web.python(ONE_SHOT, addresses(mesh.shop)[family], 8080, "x")
    source = ["::ffff:" + mesh.web.ip, mesh.web.ip6][family]
    wait_for(lambda: f"FROM {source} " in echo.text(), f"{source} at the server")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_outside_to_mesh_in_plaintext(mesh, family):
    assert mesh.outside.python(ONE_SHOT, addresses(mesh.shop)[family], 8080, "plain") == "plain"
    wait_for(lambda: [x for x in mesh.nodes[1].access_log() if f"src.addr={mesh.outside.ip}:" in x or f"src.addr=[{mesh.outside.ip6}]:" in x],
             "the inbound plaintext line")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_mesh_to_outside_is_passed_through(mesh, family):
    assert mesh.web.python(ONE_SHOT, addresses(mesh.outside)[family], 8080, "plain") == "plain"


# Many connections to one place, all open at once; each asks and is answered.
TOGETHER = """
import socket, sys
all = [socket.create_connection((sys.argv[1], 8080), timeout=10) for _ in range(int(sys.argv[2]))]
for s in all:
    s.settimeout(10)
    s.sendall(b"x")
print(sum(s.recv(1) == b"x" for s in all))
"""


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_the_application_and_the_proxy_may_have_one_port_to_one_destination(mesh, family):
    """Connections that are passed on have the pod's address at both ends of the proxy. Both sockets may get the same port from the kernel, as
    only the application's is bound to lo; with so few ports they do. Neither may hear what is meant for the other."""
    ports = "/proc/sys/net/ipv4/ip_local_port_range"
    usual = mesh.web.run("cat", ports).stdout
    mesh.web.run("sh", "-c", f"echo 40000 40059 >{ports}")
    try:
        assert mesh.web.python(TOGETHER, addresses(mesh.outside)[family], 45, timeout=60).strip() == "45"
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
        wait_for(lambda: sum(f"{far}" in line for line in mesh.nodes[0].access_log()[before:]) == 20, "the proxy to have passed them on")
        assert mesh.web.python(TOGETHER, addresses(mesh.outside)[family], 20, timeout=60).strip() == "20"
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
        assert client.python(code, addresses(mesh.shop)[family]).split("\n")[:2] == ["220 welcome", "250 helo"], client.name


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
        assert client.python(ONE_SHOT, addresses(server)[family], 8080, "half closed") == "half closed", (client.name, server.name)


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
        assert client.python(code, addresses(mesh.shop)[family], port).strip() == "first", client.name
        wait_for(lambda times=times: p.text().count("GOT after the end") == times, "what was sent after the server's end")


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
        client.python(code, addresses(mesh.shop)[family])
        wait_for(lambda before=before: echo.text().count("ERROR ConnectionResetError") > before, f"the reset of {client.name} at the server")


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
        assert client.python(code, addresses(to)[family], port).strip() == "reset", (client.name, to.name)


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


def resident_kib(p):
    with open(f"/proc/{p.pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


# Opens four connections and sends for as long as somebody takes it; or is the one who takes nothing.
PUSH = """
import socket, sys, time
role, port, to = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def push(all):
    total, end = 0, time.time() + 5
    for s in all:
        s.setblocking(False)
    while time.time() < end:
        for s in all:
            try:
                total += s.send(b"x" * 65536)
            except BlockingIOError:
                pass
        time.sleep(0.001)
    print("SENT", total, flush=True)
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


@pytest.mark.parametrize("who", ["client pushes", "server pushes"])
@pytest.mark.parametrize("where", ["in the mesh", "plaintext"])
def test_a_peer_that_never_reads_costs_bounded_memory(mesh, who, where):
    port = 7100 + (who == "server pushes") + 2 * (where == "plaintext")
    client = mesh.web if where == "in the mesh" else mesh.outside
    roles = ("server reads nothing", "client pushes") if who == "client pushes" else ("server pushes", "client reads nothing")
    server = mesh.shop.server(PUSH, roles[0], port, "-")
    before = [resident_kib(n.proxy.p) for n in mesh.nodes]
    p = client.popen("/usr/bin/python3", "-u", "-c", PUSH, roles[1], port, mesh.shop.ip)
    pusher = p if who == "client pushes" else server
    wait_for(lambda: "SENT" in pusher.text() or not pusher.alive(), "the one who sends", 40)
    assert int(re.search(r"SENT (\d+)", pusher.text()).group(1)) < 4 * 24 * (1 << 20), "what nobody reads piles up somewhere"
    after = [resident_kib(n.proxy.p) for n in mesh.nodes]
    assert max(b - a for a, b in zip(before, after)) < 4 * 16 * 1024, (before, after)
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "others go on") == "others go on"
    p.kill()
    server.kill()


# ---- policies ----

DENY_WEB = {"name": "no-web", "namespace": "demo", "scope": "Namespace", "action": "Deny", "dryRun": False,
            "rules": [[[{"principals": [{"Exact": "cluster.local/ns/demo/sa/web"}], "destinationPorts": [8080]}]]]}

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
        wait_for(lambda pod=pod: pod.python(TRY, mesh.shop.ip).strip() == "allowed", f"access of {pod.name} after the policy is gone")


def test_policy_denies_by_identity_and_names_itself(mesh, policies):
    policies.append(DENY_WEB)
    mesh.write()
    wait_for(lambda: mesh.web.python(TRY, mesh.shop.ip).strip() == "refused", "the refusal")
    assert mesh.outside.python(TRY, mesh.shop.ip).strip() == "allowed", "others are not concerned"
    wait_for(lambda: "demo/no-web" in mesh.nodes[1].proxy.text(), "the policy's name in the log")
    wait_for(lambda: re.search(r'istio_tcp_connections_failed_total\{[^}]*response_flags="DENY"', mesh.nodes[1].metrics()), "flag DENY")
    assert 'bruma_failures_total{reason="policy_denied"}' in mesh.nodes[1].metrics()


def test_plaintext_is_refused_under_strict(mesh, policies):
    policies.append({"name": "strict", "namespace": "demo", "scope": "Namespace", "action": "Deny", "dryRun": False,
                     "rules": [[[{"notPrincipals": [{"Presence": []}]}]]]})
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
    p, other = (mesh.outside.popen("/usr/bin/python3", "-u", "-c", code, mesh.shop.ip6, port) for port in (8080, 9000))
    wait_for(lambda: "OPEN" in p.text() and "OPEN" in other.text(), "the connections")
    policies.append({"name": "strict", "namespace": "demo", "scope": "Namespace", "action": "Deny", "dryRun": False,
                     "rules": [[[{"notPrincipals": [{"Presence": []}], "destinationPorts": [8080]}]]]})
    mesh.write()
    wait_for(lambda: "CUT" in p.text(), "the cut")
    time.sleep(0.3)
    assert other.alive() and "CUT" not in other.text(), "another port is not concerned"
    other.kill()


# ---- who survives whom ----


def progress(p):
    found = re.findall(r"N (\d+)", p.text())
    return int(found[-1]) if found else 0


def goes_on(p, what):
    start = progress(p)
    wait_for(lambda: progress(p) > start + 20 or not p.alive(), what)
    assert p.alive(), f"{what}: {p.text()[-300:]}"


def test_label_removed_and_put_back_breaks_no_connection(mesh):
    out, inn = (mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip),
                mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip))
    goes_on(out, "the outbound stream begins")
    goes_on(inn, "the inbound stream begins")
    mesh.labels = {}
    mesh.write()

    wait_for(lambda: not mesh.web.captured(), "web to leave the mesh")
    time.sleep(1.5)  # past the grace period
    goes_on(out, "outbound after the label was removed")
    goes_on(inn, "inbound after the label was removed")
    before = len(mesh.nodes[0].access_log())
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "plain") == "plain"
    time.sleep(0.5)
    assert len(mesh.nodes[0].access_log()) == before, "a new connection does not pass the proxy"
    mesh.labels = {"istio.io/dataplane-mode": "ambient"}
    mesh.write()
    wait_for(lambda: (mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "again") == "again" and
                      len(mesh.nodes[0].access_log()) > before), "web to be in the mesh again")
    goes_on(out, "outbound after the label was put back")
    goes_on(inn, "inbound after the label was put back")
    for p in (out, inn):
        p.kill()


# Holds connections from these ports of its own, or from any, and asks on all of them whenever it is told to.
HOLD = """
import socket, sys
all = []
for i in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if len(sys.argv) > 3:
        s.bind(("", int(sys.argv[3]) + i))
    s.settimeout(10)
    s.connect((sys.argv[1], 8080))
    all.append(s)
print("HELD", flush=True)
sys.stdin.readline()
for s in all:
    s.sendall(b"y")
print(sum(s.recv(1) == b"y" for s in all), flush=True)
"""


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("direction", ["out", "in"])
def test_connections_of_before_and_new_ones_may_have_the_same_ports(mesh, direction, family):
    """What has lived since before the pod was enrolled, and what is captured or delivered now, over lo: with so few ports they meet, and
    neither may hear what is meant for the other."""
    pod, client, server = (mesh.web, mesh.web, mesh.outside) if direction == "out" else (mesh.shop, mesh.outside, mesh.shop)
    ports = "/proc/sys/net/ipv4/ip_local_port_range"
    usual = pod.run("cat", ports).stdout.strip()
    to = addresses(server)[family]
    first = 41000 + 100 * family + 200 * (direction == "in")  # nothing of another test is in TIME_WAIT there

    def all_captured():
        for p in (mesh.web, mesh.shop, mesh.near):
            wait_for(p.captured, f"{p.name} to be in the mesh again")

    mesh.labels = {}
    mesh.write()
    wait_for(lambda: f"demo/{pod.name}" not in sh("bpftool", "map", "dump", "pinned", f"{pod.node.pin_dir}/maps/pods"),
             "the pod to be out of the mesh")
    pod.run("sh", "-c", f"echo {first} {first + 39} >{ports}")
    held = subprocess.Popen(placed(["/usr/bin/python3", "-u", "-c", HOLD, to, "20", *([first] if direction == "in" else [])],
                                   client.netns, client.node.cgroup), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout.readline() == "HELD\n"
        mesh.labels = {"istio.io/dataplane-mode": "ambient"}
        mesh.write()
        all_captured()
        assert client.python(TOGETHER, to, 15, timeout=60).strip() == "15"
        assert held.communicate("go\n", timeout=20)[0] == "20\n", "those of before live on"
    finally:
        held.kill()
        pod.run("sh", "-c", f"echo {usual} >{ports}")
        mesh.labels = {"istio.io/dataplane-mode": "ambient"}
        mesh.write()
        all_captured()


def test_nothing_is_left_in_the_namespace_after_leaving(mesh):
    mesh.labels = {}
    mesh.write()
    try:
        wait_for(lambda: "fwmark" not in mesh.near.run("ip", "rule").stdout, "the rule to go")
        wait_for(lambda: not mesh.near.run("ip", "route", "show", "table", "100", check=False).stdout, "the route to go")
        assert "fwmark" not in mesh.near.run("ip", "-6", "rule").stdout
        listening = mesh.near.run("ss", "-Hltn").stdout
        assert len(listening.splitlines()) == 2, listening
        assert mesh.near.run("sysctl", "-n", "net.ipv4.tcp_fwmark_accept").stdout.strip() == "0"
    finally:
        mesh.labels = {"istio.io/dataplane-mode": "ambient"}
        mesh.write()
    wait_for(lambda: "fwmark" in mesh.near.run("ip", "rule").stdout, "the rule to come back")


# New connections at a steady rate, also if the machine is busy for a moment. For each: when it began, and what became of it.
KNOCK = """
import json, socket, sys, time, threading
RATE, seconds = 200, float(sys.argv[2])
seen = []
def one(began):
    try:
        s = socket.create_connection((sys.argv[1], 8080), timeout=60)
        s.sendall(b"x")
        what = "served" if s.recv(1) == b"x" else "end"
        s.close()
    except OSError as e:
        what = type(e).__name__
    seen.append((began, what))
begin = time.monotonic()
threads = []
for n in range(int(RATE * seconds)):
    time.sleep(max(0, begin + n / RATE - time.monotonic()))
    t = threading.Thread(target=one, args=(time.monotonic(),)); t.start(); threads.append(t)
for t in threads:
    t.join()
json.dump(seen, sys.stdout)
"""


def knocked(p, count):
    wait_for(lambda: not p.alive(), "the clients to end", 90)
    seen = json.loads(p.text())
    assert len(seen) == count
    return seen


@pytest.mark.parametrize("whose", ["the server's", "the client's"])
@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_sigkill_of_the_proxy_refuses_no_new_connection(mesh, whose, family):
    """Connections that come while it is away wait, and each is answered. A client outside the mesh dials the server's node, one inside
    has a proxy of its own to wait for."""
    client, node = (mesh.outside, mesh.nodes[1]) if whose == "the server's" else (mesh.web, mesh.nodes[0])
    p = client.popen("/usr/bin/python3", "-u", "-c", KNOCK, addresses(mesh.shop)[family], "4")
    time.sleep(1)
    killed = time.monotonic()
    node.proxy.kill()
    time.sleep(0.5)
    node.start_proxy()
    back = time.monotonic()
    seen = knocked(p, 800)
    lost = [(began - killed, what) for began, what in seen if what != "served"]
    meanwhile = [what for began, what in seen if killed < began < back]
    assert len(meanwhile) > 50, "the clients did not knock while it was away"
    # Those that the killed process was just serving are lost with it, and nothing else: they had begun before.
    assert all(when <= 0 and what in ("ConnectionResetError", "end") for when, what in lost) and len(lost) <= 5, lost


def become(node, *wanted):
    """These are the node's proxies, in these states."""
    names = {proxy.pid: state for proxy, state in wanted}
    wait_for(lambda: {p["pid"]: p["state"] for p in json.loads(node.ctl("status", "-o", "json", check=False).stdout)["proxies"]} == names,
             f"the proxies to be {[state for _, state in wanted]}")


@contextlib.contextmanager
def side_by_side(mesh):
    """Proxies that start meanwhile stand each other, as in a cluster, where each has a network namespace of its own."""
    usual = dict(mesh.proxy_env)
    mesh.proxy_env.update(BRUMA_REPLACED_LINGER="60s", CONNECTION_TERMINATION_DEADLINE="60s",
                          **dict.fromkeys(("BRUMA_ADMIN_PORT", "BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0"))
    try:
        yield
    finally:
        mesh.proxy_env.clear()
        mesh.proxy_env.update(usual)


def test_replaced_proxies_hold_on_and_serve_again(mesh):
    """A roll-out that goes back and forth. A replaced proxy that idles stays for --replaced-linger, and when its successor dies or is told
    to end, it serves: nobody waits until it has ended and something has started another one."""
    node = mesh.nodes[1]
    former = node.proxy
    with side_by_side(mesh):
        first = node.start_proxy(wait=False)
        wait_for(lambda: not former.alive(), "one without --replaced-linger to end once it is idle")
        second = node.start_proxy(wait=False)
        become(node, (first, "replaced"), (second, "serving"))
        stream = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
        knock = mesh.outside.popen("/usr/bin/python3", "-u", "-c", KNOCK, mesh.shop.ip, "5")
        goes_on(stream, "the stream through the second")
        killed = time.monotonic()
        second.kill()
        become(node, (first, "serving"))
        again = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
        goes_on(again, "a stream through the first")
        wait_for(lambda: f"{mesh.shop.ip}:8080" in node.ctl("connections", check=False).stdout, "brumactl to find it, too")
        third = node.start_proxy(wait=False)
        become(node, (first, "replaced"), (third, "serving"))
        goes_on(again, "the stream through the first, which has been replaced")
        held = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip6)
        goes_on(held, "the stream through the third")
        third.p.terminate()
        become(node, (first, "serving"), (third, "ending"))
        goes_on(again, "the stream through the first, which serves again")
        assert third.alive(), "it has a connection to carry"
        seen = knocked(knock, 1000)
        lost = [(began - killed, what) for began, what in seen if what != "served"]
        # Those that the second was just serving when it was killed, and no other.
        assert all(when <= 0 and what in ("ConnectionResetError", "end") for when, what in lost) and len(lost) <= 5, lost
        for p in (stream, again, held):
            p.kill()
        wait_for(lambda: not third.alive(), "the third to end once it is idle")
    last = node.start_proxy()
    become(node, (first, "replaced"), (last, "serving"))
    time.sleep(1)
    assert first.alive(), "idle, and lingering"
    first.p.terminate()
    wait_for(lambda: not first.alive(), "SIGTERM to end one that lingers")


def test_a_proxy_that_cannot_reach_its_control_plane_displaces_none(mesh):
    """A roll-out with a wrong address: the new proxy never gets ready, and the old one serves on."""
    node = mesh.nodes[1]
    serving = node.proxy
    with side_by_side(mesh):
        mesh.proxy_env["XDS_ADDRESS"] = "https://localhost:1"
        lost = node.start_proxy(wait=False)
    try:
        become(node, (serving, "serving"), (lost, "not_ready"))
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "hello") == "hello"
    finally:
        node.proxy = serving
        lost.p.terminate()
    become(node, (serving, "serving"))


def test_the_first_sigint_drains_a_replaced_proxy_and_the_second_ends_it(mesh):
    node = mesh.nodes[1]
    with side_by_side(mesh):
        first = node.start_proxy(wait=False)
        become(node, (first, "serving"))
        stream = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
        goes_on(stream, "a stream through the first")
    last = node.start_proxy()
    become(node, (first, "replaced"), (last, "serving"))
    first.p.send_signal(signal.SIGINT)
    become(node, (first, "ending"), (last, "serving"))
    goes_on(stream, "the stream through the first, which drains")
    first.p.send_signal(signal.SIGINT)
    wait_for(lambda: not first.alive(), "the second SIGINT to end it")
    stream.kill()


def test_the_proxy_that_serves_takes_its_admin_socket_back(mesh):
    """Another proxy has started and died, and the agent has never heard of it."""
    node = mesh.nodes[1]
    path = f"{node.run_dir}/proxy.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path + ".dead")
        of_the_dead = os.stat(path + ".dead").st_ino
        os.rename(path + ".dead", path)
    wait_for(lambda: os.stat(path).st_ino != of_the_dead, "the proxy to take it back")
    assert mesh.shop.identity in node.ctl("identities").stdout


def test_sigkill_of_the_agent_is_not_noticed(mesh):
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
    goes_on(p, "the stream begins")
    knock = mesh.web.popen("/usr/bin/python3", "-u", "-c", KNOCK, mesh.shop.ip, "4")
    for node in mesh.nodes:
        node.agent.kill()
    time.sleep(1)
    for node in mesh.nodes:
        node.start_agent()
    goes_on(p, "the stream after the agents' restart")
    assert {what for _, what in knocked(knock, 800)} == {"served"}
    p.kill()


REACH = """
import socket, sys
for to in sys.argv[1:]:
    try:
        s = socket.create_connection((to, 8080), timeout=3)
        s.sendall(b"x")
        print("served" if s.recv(1) == b"x" else "end")
    except OSError as e:
        print(type(e).__name__)
"""


@pytest.mark.parametrize("whose", ["the server's", "the client's"])
def test_both_killed_fails_closed_and_heals(mesh, whose):
    """Nothing gets past the mesh: not to its pod from outside, and not from its pod, wherever that goes."""
    node = mesh.nodes[1] if whose == "the server's" else mesh.nodes[0]
    pairs = (((mesh.outside, mesh.shop), (mesh.web, mesh.shop)) if whose == "the server's" else
             ((mesh.web, mesh.shop), (mesh.web, mesh.near), (mesh.web, mesh.outside)))
    bystander = (mesh.near, mesh.outside) if whose == "the server's" else (mesh.outside, mesh.shop)
    node.proxy.kill()
    node.agent.kill()
    for client, server in pairs:
        said = client.python(REACH, *addresses(server)).split()
        assert len(said) == 2 and "served" not in said and "end" not in said, (client.name, server.name, said)
    assert bystander[0].python(REACH, *addresses(bystander[1])).split() == ["served"] * 2, "others are not concerned"
    node.start_agent()
    node.start_proxy()
    for client, server in pairs:
        wait_for(lambda c=client, s=server: c.python(REACH, *addresses(s)).split() == ["served"] * 2, f"{client.name} to reach {server.name}", 40)
