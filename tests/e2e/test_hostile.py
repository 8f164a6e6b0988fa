# SPDX-License-Identifier: Apache-2.0
"""Pods that do odd things with their sockets, and pods whose root wants out. After every test: no TCP segment
that is not of a tunnel has passed between two pods of the mesh, nobody was taken for somebody else, and pods
that behave go on working."""

import json
import re
import socket
import threading

import pytest

from support.network import inside
from support.nodes.hostile import KERNEL, RELAY, VIP, VIP6, counted, hostile_mesh, inbound, run, watched
from support.nodes.pod_programs import ONE_SHOT, PRELUDE, TRY
from support.system import sh, wait_for
from support.wire.segments import HBONE


@pytest.fixture(scope="module", params=[RELAY, KERNEL])
def mesh(request):
    with hostile_mesh(request.param) as m:
        yield m


@pytest.fixture(autouse=True)
def oracle(mesh):
    with watched(mesh):
        yield


each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


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
    if not mesh.kernel:
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
    if mesh.kernel:  # it is bound to the pod's device, or to lo, and each of them may go either way
        assert said[0] == "again" and set(said) <= {"again", "ECONNREFUSED"}
    else:
        assert said == ["again", "again", "again", "ECONNREFUSED", "again"]
    assert counted(mesh, "rebind_failed") == refused + said.count("ECONNREFUSED")


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
        lambda: [x for x in inbound(mesh, mesh.far) if late.identity in x],
        "its own identity at the other side",
    )


@each_family
def test_udp_is_let_alone(mesh, family):
    server = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 5353)); print("READY", flush=True)
while True:
    d, a = s.recvfrom(100); s.sendto(d, a)
"""
    if not mesh.shop.run("ss", "-Huln", "sport", "=", "5353").stdout:
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
    mesh.deny_strangers()
    mesh.write()
    try:
        # One that is let in just before is cut, which has another reason.
        wait_for(
            lambda: (
                run(mesh.web, code, local, "x") in ("reset", "ECONNRESET")
                and [x for x in mesh.nodes[0].access_log("") if local in x and "policy_denied" in x]
            ),
            "the refusal, and its reason",
        )
    finally:
        mesh.policies.clear()
        mesh.write()
        wait_for(lambda: run(mesh.web, code, local, "x") == "x", "the policy to be gone")
