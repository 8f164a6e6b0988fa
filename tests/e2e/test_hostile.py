# SPDX-License-Identifier: Apache-2.0
"""Pods that do odd things with their sockets, and pods whose root wants out. After every test: no TCP segment
that is not of a tunnel has passed between two pods of the mesh, nobody was taken for somebody else, and pods
that behave go on working."""

import json
import re
import socket
import threading
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT, PRELUDE, TRY
from support.system import sh, wait_for
from support.wire.segments import HBONE, Wire

VIP, VIP6 = "10.255.0.7", "fd00:ffff::7"


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2) as m:
        m.web, m.rogue, m.near = m.pod("web"), m.pod("rogue"), m.pod("near")
        m.shop = m.pod("shop", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.services.append(
            {
                "name": "self",
                "namespace": "demo",
                "hostname": "self.demo.svc.cluster.local",
                "vips": ["/" + VIP, "/" + VIP6],
                "ports": {80: 8080},
            }
        )
        m.web.services = {"demo/self.demo.svc.cluster.local": {80: 8080}}
        m.start()
        for pod in m.pods:
            pod.server(ECHO, "8080")
        m.shop.server(ECHO, "8088")
        m.former = {}  # identities that a pod has had, by its name
        m.members = [m.web, m.rogue, m.near, m.shop]
        with Wire(m.nodes[0]) as m.wire:
            yield m


EACH = """
import socket, sys
for to in sys.argv[1:]:
    s = socket.create_connection((to, 8080), timeout=20)
    s.sendall(b"well")
    print(s.recv(100).decode())
"""


def works(mesh):
    for client, servers in ((mesh.web, (mesh.shop, mesh.near)), (mesh.shop, (mesh.web,))):
        to = [a for p in servers for a in p.ips]
        assert client.python(EACH, *to).split() == ["well"] * len(to), client.name


def inbound(mesh, node, skip=0):
    return [line for line in mesh.nodes[node].access_log()[skip:] if 'direction="inbound"' in line]


@pytest.fixture(autouse=True)
def oracle(mesh):
    mesh.wire.forget()
    yield
    works(mesh)
    assert not mesh.wire.plain(mesh.members)
    # Who a connection is of, by the address that it comes from: an identity that is another's would show
    # here.
    for node in (0, 1):
        for line in inbound(mesh, node):
            who, address = (
                re.search(r'src\.identity="([^"]*)"', line),
                re.search(r"src\.addr=\[?([^\s\]]+?)\]?:\d+ ", line),
            )
            if who and address:
                owner = [p for p in mesh.members if address.group(1) in p.ips]
                assert not owner or who.group(1) in (
                    owner[0].identity,
                    *mesh.former.get(owner[0].name, []),
                ), line


def counted(mesh, reason):
    failures = json.loads(mesh.nodes[0].ctl("status", "-o", "json").stdout)["failures"]
    return failures.get(reason, {"count": 0})["count"]


each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


def run(pod, code, to, secret, port=8080, *more):
    return pod.python(PRELUDE + code, to, port, secret, *more).strip()


# ---- the oracle itself ----


@each_family
def test_the_capture_would_see_plaintext(mesh, family):
    assert mesh.outside.python(ONE_SHOT, mesh.near.ips[family], 8080, "in the clear") == "in the clear"
    assert mesh.wire.holds(b"in the clear")
    assert [s for s in mesh.wire.between([mesh.near, mesh.outside]) if s.destination_port == 8080]


@each_family
def test_a_tunnel_is_all_that_passes(mesh, family):
    assert mesh.web.python(ONE_SHOT, mesh.shop.ips[family], 8080, "not in the clear") == "not in the clear"
    assert not mesh.wire.holds(b"not in the clear")
    assert [s for s in mesh.wire.between(mesh.members) if HBONE in (s.source_port, s.destination_port)]


# ---- to oneself ----


@each_family
def test_own_address(mesh, family):
    code = "s = tcp(); s.connect((TO, PORT)); print(echo(s), s.getpeername()[0] == s.getsockname()[0] == TO)"
    before = len(mesh.nodes[0].access_log())
    assert run(mesh.web, code, mesh.web.ips[family], "to myself") == "to myself True"
    assert not [x for x in mesh.nodes[0].access_log()[before:] if "src.workload=web" in x], (
        "no proxy is concerned"
    )


@each_family
def test_service_that_leads_back_to_the_pod(mesh, family):
    code = "s = tcp(); s.connect((TO, PORT)); print(echo(s), s.getpeername()[0] == TO)"
    before = len(mesh.nodes[0].access_log())
    assert run(mesh.web, code, [VIP, VIP6][family], "round trip", 80) == "round trip True"
    own = f'dst.identity="{mesh.web.identity}"'
    lines = wait_for(
        lambda: [x for x in inbound(mesh, 0, before) if x.count(mesh.web.identity) == 2 and own in x],
        "the inbound line",
    )
    assert len(lines) == 1, "once through the proxy, not round and round"


@each_family
def test_loopback_and_unspecified(mesh, family):
    for to in (["127.0.0.1", "127.8.9.10", "0.0.0.0", "::ffff:127.0.0.1"], ["::1", "::"])[family]:
        assert (
            run(mesh.web, "s = tcp(); s.connect((TO, PORT)); print(echo(s))", to, "stays here")
            == "stays here"
        ), to


# ---- odd, and legitimate ----


@each_family
def test_nonblocking_connect(mesh, family):
    code = """
s = tcp(); s.setblocking(False)
first = s.connect_ex((TO, PORT))
assert first == errno.EINPROGRESS, first
second = s.connect_ex((TO, PORT))
assert second in (errno.EALREADY, 0), second
p = select.poll(); p.register(s, select.POLLOUT); assert p.poll(20000)
assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
assert s.connect_ex((TO, PORT)) in (0, errno.EISCONN)
s.settimeout(20)
print(echo(s))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "in no hurry") == "in no hurry"


def test_v4_mapped(mesh):
    code = "s = tcp(); s.connect((TO, PORT)); print(echo(s), s.getpeername()[0])"
    mapped = f"::ffff:{mesh.shop.ip}"
    assert run(mesh.web, code, mapped, "mapped") == f"mapped {mapped}"


def test_v4_mapped_to_a_closed_port_and_v6_only(mesh):
    code = """
s = tcp(); print(attempt(s, (TO, 4444)) in ("ECONNRESET", "ECONNREFUSED") or echo(s))
s = tcp(); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); print(attempt(s, (TO, PORT)))
"""
    assert run(mesh.web, code, f"::ffff:{mesh.shop.ip}", "x") in ("reset\nENETUNREACH", "True\nENETUNREACH")


@each_family
def test_fast_open(mesh, family):
    code = """
s = tcp()
s.settimeout(None)
s.sendto(SECRET, socket.MSG_FASTOPEN, (TO, PORT))
print(s.recv(100).decode())
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "at once") == "at once"


@each_family
def test_closed_port_resets(mesh, family):
    for pod in (mesh.shop, mesh.near, mesh.outside):
        assert run(mesh.web, TRY, pod.ips[family], "x", 4444) in (
            "reset",
            "ECONNRESET",
            "ECONNREFUSED",
        ), pod.name


@each_family
def test_disconnect_and_connect_elsewhere(mesh, family):
    """connect() with AF_UNSPEC dissolves the connection; the same socket goes on to others, captured and
    not."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def disconnect(s):
    assert libc.connect(s.fileno(), b"\\0" * 28, 28) == 0, ctypes.get_errno()
s = tcp()
for to in sys.argv[4:]:
    for i in range(2):
        s.connect((to, PORT))
        print(echo(s))
        disconnect(s)
        time.sleep(0.05)
"""
    order = [p.ips[family] for p in (mesh.shop, mesh.web)] + [["127.0.0.1", "::1"][family]]
    order += [p.ips[family] for p in (mesh.outside, mesh.near, mesh.web, mesh.shop)]
    assert run(mesh.web, code, order[0], "again", 8080, *order).split() == ["again"] * 14


@each_family
def test_disconnect_as_an_ordinary_user(mesh, family):
    """Once captured its socket cannot be let go again: it may go on to the mesh and to loopback, else it is
    refused."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
os.setuid(65534)
s = tcp()
for to in sys.argv[4:]:
    r = attempt(s, (to, PORT))
    print(r if r != "connected" else echo(s))
    assert libc.connect(s.fileno(), b"\\0" * 28, 28) == 0, ctypes.get_errno()
"""
    shop, near, own = (p.ips[family] for p in (mesh.shop, mesh.near, mesh.web))
    refused = counted(mesh, "rebind_failed")
    said = run(
        mesh.web, code, shop, "again", 8080, shop, near, ["127.0.0.1", "::1"][family], own, shop
    ).split()
    assert said == ["again", "again", "again", "ECONNREFUSED", "again"]
    assert counted(mesh, "rebind_failed") == refused + 1


@each_family
def test_multipath_tcp(mesh, family):
    code = """
s = socket.socket(socket.AF_INET6 if V6 else socket.AF_INET, socket.SOCK_STREAM, 262)
s.settimeout(20); s.connect((TO, PORT)); print(echo(s))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "one path") == "one path"


@each_family
def test_a_port_can_be_bound_while_connections_to_it_live(mesh, family):
    """In the pod the proxy's ends of connections have the destination's port. A server may start there, or
    start again."""
    server = """
s = tcp(); s.connect((TO, PORT)); assert echo(s, b"live") == "live"
out = tcp(); out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
out.bind(("::" if V6 else "0.0.0.0", PORT)); out.listen()
print("READY", flush=True)
c, _ = out.accept(); c.sendall(c.recv(100))
print("SERVED", echo(s), flush=True)
os._exit(0)
"""
    to = mesh.shop.ips[family]
    for client in (
        mesh.outside,
        mesh.near,
        mesh.outside,
    ):  # what the one before left behind is in the way of the next
        p = mesh.rogue.popen("/usr/bin/python3", "-u", "-c", PRELUDE + server, to, 8088, "goes on")
        wait_for(lambda: "READY" in p.text() or not p.alive(), "the server")
        assert run(client, TRY, mesh.rogue.ips[family], "hello", 8088) == "hello", p.text()
        wait_for(lambda: not p.alive(), "its end")
        assert "SERVED goes on" in p.text()


@each_family
def test_socket_opened_before_enrollment(mesh, family):
    late = mesh.pod(f"late{family}")
    known = len([p for p in mesh.pods if not getattr(p, "outside", False)])
    code = """
s = tcp(); open_before = tcp(); open_before.connect((TO, PORT))
first = echo(open_before, b"outside the mesh")
print("READY", first, flush=True)
while not os.path.exists(sys.argv[4]):
    time.sleep(0.01)
s.connect((TO, PORT))
print("CAPTURED", echo(s), flush=True)
print("GOES ON", echo(open_before, b"still the same"), flush=True)
"""
    mesh.write()  # it is known, and not yet in the mesh: no CNI call so far
    wait_for(
        lambda: all(
            json.loads(n.ctl("status", "-o", "json").stdout)["workloads"] == known for n in mesh.nodes
        ),
        "the mesh file",
    )
    mesh.wire.forget()
    to = mesh.shop.ips[family]
    p = late.popen(
        "/usr/bin/python3", "-u", "-c", PRELUDE + code, to, 8080, "after enrollment", f"{mesh.dir}/go{family}"
    )
    wait_for(lambda: "READY outside the mesh" in p.text(), "the first connection")
    late.cni("ADD")
    with open(f"{mesh.dir}/go{family}", "w"):
        pass
    wait_for(lambda: "GOES ON" in p.text() or not p.alive(), "both connections")
    assert "CAPTURED after enrollment" in p.text(), p.text()
    assert not mesh.wire.holds(b"after enrollment")
    wait_for(
        lambda: [x for x in inbound(mesh, 1) if late.identity in x], "its own identity at the other side"
    )


@each_family
def test_udp_is_let_alone(mesh, family):
    server = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 5353)); print("READY", flush=True)
while True:
    d, a = s.recvfrom(100); s.sendto(d, a)
"""
    if not family:
        mesh.shop.server(server)
    code = """
def ask(s, send):
    s.settimeout(20); send(s); print(s.recv(100).decode())
kind = socket.AF_INET6 if V6 else socket.AF_INET
s = socket.socket(kind, socket.SOCK_DGRAM); s.connect((TO, PORT)); ask(s, lambda s: s.send(SECRET))
s = socket.socket(kind, socket.SOCK_DGRAM); ask(s, lambda s: s.sendto(SECRET, (TO, PORT)))
s = socket.socket(kind, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0")
s.connect((TO, PORT)); ask(s, lambda s: s.send(SECRET))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "datagram", 5353).split() == ["datagram"] * 3


def test_link_local_and_multicast(mesh):
    """Neither is ever an address of a workload. Link-local ones belong to a device: they are let pass, as
    loopback is."""
    node = mesh.nodes[0].netns
    gateway = re.search(
        r"inet6 (fe80::\S+)/", sh("ip", "-n", node, "-6", "addr", "show", "dev", "br0")
    ).group(1)
    with inside(node):
        s = socket.create_server(("::", 7070), family=socket.AF_INET6)

    def greet():
        c, _ = s.accept()
        c.sendall(b"on the link")
        c.close()

    threading.Thread(target=greet, daemon=True).start()
    code = """
s = tcp(); s.connect((TO, PORT, 0, socket.if_nametoindex("eth0"))); print(s.recv(100).decode())
for to in (("ff02::1", PORT, 0, socket.if_nametoindex("eth0")), ("ff0e::1", PORT)):
    print(attempt(tcp(), to))
print(attempt(tcp(socket.AF_INET), ("224.0.0.1", PORT)))
"""
    assert run(mesh.web, code, gateway, "x", 7070).split("\n") == [
        "on the link",
        "ENETUNREACH",
        "ENETUNREACH",
        "ENETUNREACH",
    ]
    s.close()


def test_the_link_local_address_of_a_pod_is_no_way_past_its_policies(mesh):
    """It is served as without the mesh, to somebody without an identity: under a policy that wants one it is
    refused."""
    code = """
s = tcp(); r = attempt(s, (TO, PORT, 0, socket.if_nametoindex("eth0"))); print(r if r != "connected" else echo(s))
"""
    local = re.search(
        r"inet6 (fe80::\S+)/", mesh.near.run("ip", "-6", "addr", "show", "dev", "eth0").stdout
    ).group(1)
    assert run(mesh.web, code, local, "x") == "x"
    mesh.policies.append(
        {
            "name": "strict",
            "namespace": "demo",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": False,
            "rules": [[[{"notPrincipals": [{"Presence": []}]}]]],
        }
    )
    mesh.write()
    try:
        wait_for(lambda: run(mesh.web, code, local, "x") in ("reset", "ECONNRESET"), "the refusal")
        wait_for(
            lambda: [x for x in mesh.nodes[0].access_log("") if local in x and "policy_denied" in x],
            "its reason",
        )
    finally:
        mesh.policies.clear()
        mesh.write()
        wait_for(lambda: run(mesh.web, code, local, "x") == "x", "the policy to be gone")


# ---- devices and marks ----


@each_family
def test_bound_to_a_device_first(mesh, family):
    code = """
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); s.connect((TO, PORT)); print(echo(s))
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo"); s.connect((TO, PORT)); print(echo(s))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "by device") == "by device\nby device"


@each_family
def test_bound_to_a_device_first_by_an_ordinary_user(mesh, family):
    """Its socket cannot be moved to lo, so it is refused, and that is counted by name."""
    code = """
os.setuid(65534)
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); print(attempt(s, (TO, PORT)))
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); print(attempt(s, (sys.argv[4], PORT)))
"""
    own = mesh.web.ips[family]
    refused = counted(mesh, "rebind_failed")
    assert run(mesh.web, code, mesh.shop.ips[family], "x", 8080, own).split() == [
        "ECONNREFUSED",
        "connected",
    ]
    assert counted(mesh, "rebind_failed") == refused + 1


@each_family
@pytest.mark.parametrize("when", ["in progress", "established"])
def test_bound_to_a_device_later_by_an_ordinary_user(mesh, family, when):
    """Anybody may bind a socket that is not bound yet; a captured one must not be moved out of the pod like
    that."""
    code = """
os.setuid(65534)
s = tcp()
if sys.argv[4] == "in progress":
    s.setblocking(False); s.connect_ex((TO, PORT))
else:
    s.connect((TO, PORT)); assert echo(s, b"first") == "first"
try:
    s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); print("moved")
except PermissionError:
    print("refused")
s.settimeout(5)
if sys.argv[4] == "in progress":
    p = select.poll(); p.register(s, select.POLLOUT); p.poll(5000)
print(echo(s))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "elsewhere", 8080, when) == "refused\nelsewhere"


@each_family
@pytest.mark.parametrize("mark", [0x111, 0x539, 0x222, 0x1111], ids=hex)
def test_own_mark_first(mesh, family, mark):
    code = """
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_MARK, int(sys.argv[4])); s.connect((TO, PORT)); print(echo(s))
"""
    assert run(mesh.rogue, code, mesh.shop.ips[family], "marked", 8080, mark) == "marked"
    assert run(mesh.rogue, code, mesh.rogue.ips[family], "marked self", 8080, mark) == "marked self"


@each_family
@pytest.mark.parametrize("mark", [0, 0x539], ids=hex)
def test_own_mark_later(mesh, family, mark):
    """Whether it still finds the proxy or not, it finds nobody else."""
    code = """
s = tcp(); s.connect((TO, PORT)); assert echo(s, b"first") == "first"
s.setsockopt(socket.SOL_SOCKET, SO_MARK, int(sys.argv[4]))
s.settimeout(1)
print(echo(s))
"""
    run(mesh.rogue, code, mesh.shop.ips[family], "unmarked", 8080, mark)
    assert not mesh.wire.holds(b"unmarked")


@each_family
def test_the_address_of_somebody_else(mesh, family):
    """Who a connection is of is told by the namespace it was made in, not by its source address."""
    code = """
s = tcp(); s.setsockopt(socket.IPPROTO_IPV6 if V6 else socket.IPPROTO_IP, IPV6_TRANSPARENT if V6 else IP_TRANSPARENT, 1)
s.bind((sys.argv[4], 0)); s.settimeout(5)
r = attempt(s, (TO, PORT)); print(r if r != "connected" else echo(s))
"""
    before = len(mesh.nodes[1].access_log())
    assert run(mesh.rogue, code, mesh.shop.ips[family], "as web", 8088, mesh.web.ips[family]) == "as web"
    lines = wait_for(lambda: [x for x in inbound(mesh, 1, before) if ":8088 " in x], "the inbound line")
    assert f'src.identity="{mesh.rogue.identity}"' in lines[0] and mesh.web.identity not in lines[0]


@each_family
def test_a_socket_of_another_pod(mesh, family):
    """Made in one pod and used in another, it goes in the name of the one where it was made."""
    path = f"{mesh.dir}/handed-{family}"
    give = """
path = sys.argv[4]
l = socket.socket(socket.AF_UNIX); l.bind(path); l.listen(); print("READY", flush=True)
c, _ = l.accept(); s = tcp(); socket.send_fds(c, [b"x"], [s.fileno()]); c.recv(1)
"""
    take = """
u = socket.socket(socket.AF_UNIX); u.connect(sys.argv[4])
_, fds, _, _ = socket.recv_fds(u, 1, 1)
s = socket.socket(fileno=fds[0]); s.settimeout(20); s.connect((TO, PORT)); print(echo(s), s.getsockname()[0])
"""
    to = mesh.shop.ips[family]
    giver = mesh.rogue.popen("/usr/bin/python3", "-u", "-c", PRELUDE + give, to, 8088, "x", path)
    wait_for(lambda: "READY" in giver.text(), "the socket to be handed over")
    before = len(mesh.nodes[1].access_log())
    assert run(mesh.web, take, to, "borrowed", 8088, path) == f"borrowed {mesh.rogue.ips[family]}"
    lines = wait_for(lambda: [x for x in inbound(mesh, 1, before) if ":8088 " in x], "the inbound line")
    assert f'src.identity="{mesh.rogue.identity}"' in lines[0] and mesh.web.identity not in lines[0]


def test_a_new_service_account_is_a_new_identity(mesh):
    """Nothing goes on in the name of the former one, and the pod does go on."""
    for account in ("promoted", "rogue"):
        mesh.former.setdefault("rogue", []).append(mesh.rogue.identity)
        mesh.rogue.account = account
        mesh.write()

        def known():
            before = len(mesh.nodes[1].access_log())
            if run(mesh.rogue, TRY, mesh.shop.ip, "who am I", 8088) != "who am I":
                return False
            lines = wait_for(
                lambda: [x for x in inbound(mesh, 1, before) if ":8088 " in x], "the inbound line"
            )
            return f'src.identity="{mesh.rogue.identity}"' in lines[-1]

        wait_for(known, f"connections in the name of {mesh.rogue.identity}")


# ---- the ports of the mesh ----

OWN_SERVER = """
import socket, sys
port = int(sys.argv[1])
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("::", port)); s.listen(16)
print("READY", flush=True)
while True:
    c, a = s.accept()
    print("FROM", a[0], flush=True)
    c.sendall(b"mine"); c.close()
"""


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_server_of_the_pod_on_a_port_of_the_mesh(mesh, port):
    """It serves its own pod. From elsewhere the port belongs to the mesh."""
    server = mesh.rogue.server(OWN_SERVER, port)
    ask = "s = tcp(); r = attempt(s, (TO, PORT)); print(s.recv(100).decode() if r == 'connected' else r)"
    knock = """
s = tcp(); r = attempt(s, (TO, PORT))
try:
    if r == "connected":
        s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        r = s.recv(100).decode(errors="replace")
except OSError as e:
    r = errno.errorcode[e.errno]
print(r)
"""
    for to in (*mesh.rogue.ips, "127.0.0.1", "::1"):
        if to in mesh.rogue.ips and port == HBONE:
            continue  # who asks for the tunnel port of a pod's address gets the tunnel
        assert run(mesh.rogue, ask, to, "x", port) == "mine", to
    before = server.text().count("FROM")
    for client in (mesh.shop, mesh.outside, mesh.web):
        for to in mesh.rogue.ips:
            assert "mine" not in run(client, knock, to, "x", port), (client.name, to)
    assert server.text().count("FROM") == before, "nobody from outside got through"
    server.kill()


def listeners(pod):
    """Ports of the mesh's own listeners: what listens in the pod and is no process of a test."""
    lines = pod.run("ss", "-Hltnp").stdout.splitlines()
    return sorted({int(x.split()[3].rsplit(":", 1)[1]) for x in lines if 'users:(("bruma-' in x})


def test_reuseport_joins_no_listener(mesh):
    ports = listeners(mesh.rogue)
    assert len(ports) == 3, ports
    code = """
for port in map(int, sys.argv[4:]):
    for family, to in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((to, port)); s.listen(); print("joined", port)
        except OSError as e:
            print(errno.errorcode[e.errno])
"""
    assert set(run(mesh.rogue, code, "::1", "x", 1, *ports).split()) == {"EADDRINUSE"}


@each_family
def test_own_listener_for_everything_takes_nothing(mesh, family):
    """A transparent listener of the pod on the destination's own port, where a captured SYN would find it."""
    code = """
l = tcp(); l.setsockopt(socket.IPPROTO_IPV6 if V6 else socket.IPPROTO_IP, IPV6_TRANSPARENT if V6 else IP_TRANSPARENT, 1)
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((TO, PORT)); l.listen()
s = tcp(); s.connect((TO, PORT)); print(echo(s))
l.settimeout(0.2)
try:
    l.accept(); print("stolen")
except TimeoutError:
    print("nothing")
"""
    assert run(mesh.rogue, code, mesh.shop.ips[family], "to shop", 8088) == "to shop\nnothing"


REFUSED = ("reset", "ECONNRESET", "ECONNREFUSED", "EPIPE", "end")


@each_family
def test_connecting_to_a_listener_itself(mesh, family):
    """Its port is no port of the pod: whoever dials it is refused, and the proxy does not talk to itself for
    ever."""
    ports = listeners(mesh.rogue)
    before = [len(n.access_log()) for n in mesh.nodes]
    own = mesh.rogue.ips[family]
    for port in ports:
        for client, to in (
            (mesh.rogue, own),
            (mesh.rogue, ["127.0.0.1", "::1"][family]),
            (mesh.near, own),
            (mesh.shop, own),
            (mesh.outside, own),
        ):
            assert run(client, TRY, to, "who is there", port) in REFUSED, (client.name, to, port)
    time.sleep(0.2)
    assert sum(len(n.access_log()) for n in mesh.nodes) - sum(before) < 40


# ---- a pod that takes its network apart ----


@each_family
def test_destroying_every_socket_of_the_pod(mesh, family):
    pod, to = mesh.rogue, mesh.shop.ips[family]
    assert pod.python(ONE_SHOT, to, 8080, "before") == "before"
    for _ in range(3):
        pod.run("ss", "-K", check=False)
        pod.run("ss", "-K", "-l", check=False)
        run(pod, TRY, to, "amid the ruins")
    wait_for(lambda: run(pod, TRY, to, "repaired") == "repaired", "connections from the pod")
    for p in pod.processes:
        p.kill()
    pod.server(ECHO, "8080")  # the listener of the one before is destroyed too
    wait_for(lambda: run(mesh.web, TRY, pod.ips[family], "repaired") == "repaired", "connections to the pod")


HAMMER = """
end = time.time() + float(sys.argv[4])
seen = {}
while time.time() < end:
    s = tcp(); s.settimeout(0.3)
    r = attempt(s, (TO, PORT))
    if r == "connected":
        r = echo(s)
    seen[r] = seen.get(r, 0) + 1
    s.close()
print(seen)
"""


@each_family
@pytest.mark.parametrize("how", ["rules", "routes", "a rule before ours", "a route to the node", "sysctls"])
def test_taking_the_way_to_the_proxy_apart(mesh, family, how):
    """Again and again, while it connects: what no longer gets to the proxy gets nowhere."""
    pod, to = mesh.rogue, mesh.shop.ips[family]
    ip = ["ip", "-4"] if not family else ["ip", "-6"]
    gateway = [mesh.nodes[0].gateway, mesh.nodes[0].gateway6][family]
    undo = None
    # Answers of the test before that are still being sent again are no connections of this one.
    pod.run("ss", "-K", "state", "connected", "sport", "=", "8080", check=False)
    if how == "rules":
        each = "; ".join(
            f"{' '.join(ip)} rule del fwmark 0x111/0xfff lookup {table}" for table in range(100, 104)
        )
    elif how == "routes":
        each = "; ".join(f"{' '.join(ip)} route flush table {table}" for table in range(100, 104))
    elif how == "sysctls":
        each = "sysctl -q -w net.ipv4.tcp_fwmark_accept=0 net.ipv4.fwmark_reflect=0 net.ipv6.fwmark_reflect=0"
    elif how == "a rule before ours":
        each, undo = (
            f"{' '.join(ip)} rule add pref 77 fwmark 0x111/0xfff lookup main",
            [*ip, "rule", "del", "pref", "77"],
        )
    else:
        table = f"{' '.join(ip)} rule | sed -n '/0x111/s/.*lookup //p' | head -1"
        each = f"{' '.join(ip)} route replace default via {gateway} dev eth0 table $({table})"
    breaker = pod.popen("/bin/sh", "-c", f"while :; do {each} 2>/dev/null; sleep 0.002; done")
    others = []
    if how in ("rules", "routes"):  # what its server answers, too
        others.append(
            mesh.shop.popen(
                "/usr/bin/python3", "-c", PRELUDE + HAMMER, pod.ips[family], 8080, "unsteered", "1"
            )
        )
    try:
        run(pod, HAMMER, to, "unsteered", 8080, "1")
        wait_for(lambda: not [p for p in others if p.alive()], "the others' connections")
    finally:
        breaker.kill()
        if undo:
            while pod.run(*undo, check=False).returncode == 0:
                pass
    assert not mesh.wire.holds(b"unsteered")
    wait_for(lambda: run(pod, TRY, to, "repaired") == "repaired", "the pod's connections after it")
