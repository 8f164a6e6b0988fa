# SPDX-License-Identifier: Apache-2.0
"""Two pods of one node without a tunnel (same-node: relay): who may talk, what is said of it, and how it ends are as
with a tunnel. Each scene is played in two meshes, one of either way, and what the logs and metrics say is compared."""

import re

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT, SEND, SERVER_FIRST, SINK
from support.system import wait_for
from support.wire.access_log import AccessLog

WAYS = ["hbone", "relay"]
CART, VIP = "demo/cart.demo.svc.cluster.local", "10.96.0.50"

# Reads its greeting, then closes with bytes of the client unread: a reset.
RESETS = """
import socket, struct, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.sendall(b"last words")
    c.recv(1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
"""

# What it reads up to the end, and how that came.
TALK = """
import socket, sys
got = b""
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
    s.sendall(b"hello")
    while True:
        d = s.recv(65536)
        if not d:
            print(got.decode(), "end")
            break
        got += d
except OSError as e:
    print(got.decode(), type(e).__name__)
"""

# Stays open, and says how it ended.
STAY = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
s.sendall(b"x")
s.recv(1)
print("OPEN", flush=True)
try:
    print("ENDED", "end" if s.recv(1) == b"" else "bytes", flush=True)
except OSError as e:
    print("ENDED", type(e).__name__, flush=True)
"""


def make(way, **env):
    m = Mesh(nodes=1, workers=2, proxy_env={"BRUMA_SAME_NODE": way, **env})
    m.services.append(
        {
            "name": "cart",
            "namespace": "demo",
            "hostname": "cart.demo.svc.cluster.local",
            "vips": [f"/{VIP}"],
            "ports": {7000: 8080},
        }
    )
    m.web, m.shop, m.other = m.pod("web"), m.pod("shop"), m.pod("other")
    m.shop.services = {CART: {7000: 8080}}
    m.start()
    m.node = m.nodes[0]
    m.shop.server(ECHO, 8080)
    m.shop.server(SINK, 9000)
    m.shop.server(SERVER_FIRST, 2525)
    m.shop.server(RESETS, 6000)
    return m


@pytest.fixture(scope="module")
def meshes():
    made = {}
    try:
        for way in WAYS:
            made[way] = make(way)
        yield made
    finally:
        for m in made.values():
            m.stop()


@pytest.fixture
def mesh(meshes):
    return meshes["relay"]


def short(mesh, text):
    """The pods by their names, and ports that are chosen anew each time by a word."""
    for pod in mesh.pods:
        for ip in (pod.ip6, pod.ip):
            text = text.replace(f"[{ip}]", pod.name).replace(ip, pod.name)
    return text


def both_lines(mesh, log, direction=("inbound", "outbound")):
    """Of one connection, without what differs by design: where a tunnel goes to, and its authority."""

    def there():
        lines = [
            x for x in log.lines() if "connection complete" in x["line"] or "connection failed" in x["line"]
        ]
        return lines if {x["direction"] for x in lines} >= set(direction) else None

    said = {}
    for line in wait_for(there, f"both lines of {mesh.node.proxy_log}", log=mesh.node.proxy_log):
        fields = {k: short(mesh, v) for k, v in line.items() if k not in ("line", "duration")}
        to = fields.pop("dst.hbone_addr", None) or fields["dst.addr"]
        fields["dst.addr"] = to
        fields["src.addr"] = fields["src.addr"].rsplit(":", 1)[0]
        fields["level"] = line["line"].split("\t")[1]
        said[fields.pop("direction")] = fields
    return said


def series(mesh):
    """The traffic metrics by labels, without the one that differs by design."""
    found = {}
    for line in mesh.node.metrics().splitlines():
        if line.startswith("istio_tcp_"):
            name, value = line.rsplit(" ", 1)
            name = re.sub(r'connection_security_policy="\w+"', "", short(mesh, name))
            found[name] = found.get(name, 0) + float(value)
    return found


def grown(before, after):
    return {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}


def played(mesh, scene):
    """What the client saw, both lines, and what the metrics have counted."""
    log, before = AccessLog(mesh.node), series(mesh)
    saw = scene(mesh)
    lines = both_lines(mesh, log)
    wait_for(
        lambda: sum(v for k, v in grown(before, series(mesh)).items() if "connections_closed" in k) >= 2,
        "both connections to be counted as closed",
    )
    return saw, lines, grown(before, series(mesh))


SCENES = {
    "echo-v4": lambda m: m.web.python(ONE_SHOT, m.shop.ip, 8080, "ping"),
    "echo-v6": lambda m: m.web.python(ONE_SHOT, m.shop.ip6, 8080, "ping"),
    "service": lambda m: m.web.python(ONE_SHOT, VIP, 7000, "ping"),
    "server-first": lambda m: m.web.python(TALK, m.shop.ip, 2525),
    "bulk": lambda m: m.web.python(SEND, m.shop.ip, 9000, 32),
    "reset-by-the-application": lambda m: m.web.python(TALK, m.shop.ip, 6000),
    "nobody-listens": lambda m: m.web.python(TALK, m.shop.ip, 8099),
}


@pytest.mark.parametrize("scene", SCENES)
def test_both_ways_look_the_same(meshes, scene):
    seen = {way: played(meshes[way], SCENES[scene]) for way in WAYS}
    assert seen["relay"] == seen["hbone"]
    for way in WAYS:
        m = meshes[way]
        for line in seen[way][1].values():
            assert (line["src.identity"], line["dst.identity"]) == (m.web.identity, m.shop.identity)


def test_what_differs_by_design(meshes):
    """The tunnel's address and authority, and the word of connection_security_policy."""
    for way, m in meshes.items():
        log = AccessLog(m.node)
        assert m.web.python(ONE_SHOT, m.shop.ip, 8080, "ping") == "ping"
        for direction in ("inbound", "outbound"):
            line = log.wait("the connection", direction=direction)
            assert ("dst.hbone_addr" in line) == (way == "hbone")
            assert line["dst.addr"] == f"{m.shop.ip}:{15008 if way == 'hbone' else 8080}"
        said = set(
            re.findall(r'istio_tcp_connections_opened.*connection_security_policy="(\w+)"', m.node.metrics())
        )
        assert said == {"mutual_tls" if way == "hbone" else "unknown"}
