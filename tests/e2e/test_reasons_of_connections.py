# SPDX-License-Identifier: Apache-2.0
"""Connections that fail in each way that a network, a peer or an application can make them fail: metrics and
access log say why, whether the proxy carries them (web) or they go past it (near)."""

import threading

import h2.errors
import pytest

from support.nodes.direct import WAYS, device, wait_direct
from support.nodes.mesh import Mesh
from support.system import sh, wait_for

# They are waited for, so they are short here.
LIMITS = {
    "BRUMA_CONNECT_TIMEOUT": "1s",
    "BRUMA_ANSWER_TIMEOUT": "1s",
    "BRUMA_PING_INTERVAL": "200ms",
    "BRUMA_PING_TIMEOUT": "600ms",
    "BRUMA_HALF_CLOSE_TIMEOUT": "1s",
}

# Sends a byte, and with "end" its end of the connection too; prints what became of it.
CALL = """
import socket, sys
try:
    timeout = 2 if "impatient" in sys.argv else None
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=timeout)
    s.settimeout(30)
    s.sendall(b"x")
    if "end" in sys.argv:
        s.shutdown(socket.SHUT_WR)
    while s.recv(1000):
        print("data")
    print("end")
except OSError as e:
    print(type(e).__name__)
"""

# Takes what comes and its end, and never ends its own direction.
HALF = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
kept = []
while True:
    c = s.accept()[0]
    kept.append(c)
    while c.recv(1000):
        pass
    print("HALF", flush=True)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=WAYS, proxy_env=LIMITS) as m:
        m.web, m.near, m.shop = m.pod("web", node=0), m.pod("near", node=0), m.pod("shop", node=1)
        m.web.more = {"annotations": {"bruma.io/direct-outside": "false"}}
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.shop, m.outside):
            pod.server(HALF, 7000)
        wait_direct(m.near)
        yield m


def fails(mesh, reason, address, *how, port=7000, client=None, direct=False):
    """A call of the client, which is web, that ends for this reason, once, by metrics and access log. Returns what the
    application saw. direct: whether it goes past the proxy."""
    before, lines = mesh.nodes[0].failures(reason), len(mesh.nodes[0].access_log(f"{reason}: "))
    seen = (client or mesh.web).python(CALL, address, port, *how).split()
    wait_for(lambda: mesh.nodes[0].failures(reason) == before + 1, f"one {reason} in the metrics")
    wait_for(lambda: len(mesh.nodes[0].access_log(f"{reason}: ")) == lines + 1, f"{reason} in the access log")
    assert ('way="direct"' in mesh.nodes[0].access_log(f"{reason}: ")[-1]) == direct
    return seen


@pytest.fixture
def route(mesh):
    """Adds routes in pods, or nodes."""
    added = []

    def add(pod, kind, destination):
        sh("ip", "-n", pod.netns, "route", "add", kind, destination)
        added.append((pod, kind, destination))

    yield add
    for pod, kind, destination in added:
        sh("ip", "-n", pod.netns, "route", "del", kind, destination)


each_way = pytest.mark.parametrize("who", ["web", "near"], ids=["by the proxy", "past it"])


@each_way
def test_a_destination_that_says_nothing(mesh, route, who):
    """Past the proxy it is the application that gives up."""
    client, direct = getattr(mesh, who), who == "near"
    route(mesh.outside, "blackhole", client.ip)
    seen = fails(mesh, "connect_timeout", mesh.outside.ip, "impatient", client=client, direct=direct)
    assert seen == ["ConnectionResetError" if who == "web" else "TimeoutError"]


@each_way
def test_a_destination_without_a_way(mesh, route, who):
    """A router says so: to an application that waits, with a repeated SYN at the latest. The first one's answer is here while
    connect() still sends, and then the kernel goes on."""
    route(mesh.nodes[0], "unreachable", "198.51.100.1")
    seen = fails(mesh, "connect_unreachable", "198.51.100.1", client=getattr(mesh, who), direct=who == "near")
    assert seen == ["ConnectionResetError" if who == "web" else "OSError"]


# The pod's own routes refuse: then nothing of it goes past the proxy, whose sockets heed them.
@pytest.mark.parametrize(
    ("kind", "reason"), [("unreachable", "connect_unreachable"), ("prohibit", "connect_failed")]
)
@each_way
def test_a_destination_that_the_kernel_refuses(mesh, route, who, kind, reason):
    """With prohibit it is neither refused by its host, nor unreachable, nor silent: EACCES."""
    client = getattr(mesh, who)
    route(client, kind, "198.51.100.2")
    if who == "near":
        wait_for(lambda: device(client) == 0, "the agent to see the route")
    assert fails(mesh, reason, "198.51.100.2", client=client) == ["ConnectionResetError"]


def test_a_destination_in_another_network(mesh):
    """An endpoint of a service of this one."""
    mesh.services.append(
        {
            "name": "far",
            "namespace": "demo",
            "hostname": "far.demo.svc.cluster.local",
            "vips": ["/10.96.0.77"],
            "ports": {7000: 7000},
            "subjectAltNames": ["spiffe://cluster.local/ns/demo/sa/far"],
        }
    )
    mesh.extra.append(
        {
            "uid": "far//Pod/demo/far",
            "name": "far",
            "namespace": "demo",
            "serviceAccount": "far",
            "network": "far",
            "workloadIps": ["198.51.100.3"],
            "protocol": "HBONE",
            "node": "elsewhere",
            "services": {"demo/far.demo.svc.cluster.local": {7000: 7000}},
        }
    )
    mesh.write()
    wait_for(lambda: "198.51.100.3" in str(mesh.nodes[0].config_dump()["workloads"]), "the workload")
    assert fails(mesh, "gateway_unresolved", "10.96.0.77") == ["ConnectionResetError"]
    mesh.services.clear()
    mesh.extra.clear()
    mesh.write()


def test_a_peer_whose_tunnel_port_is_blocked(mesh, peer, route):
    route(peer.pod, "blackhole", mesh.web.ip)
    assert fails(mesh, "hbone_blocked", peer.pod.ip) == ["ConnectionResetError"]
    assert not peer.requests


def test_a_peer_that_never_answers_connect(mesh, peer):
    peer.behaviour = lambda server, conn, sid, headers: None
    assert fails(mesh, "connect_answer_timeout", peer.pod.ip) == ["ConnectionResetError"]
    assert peer.requests


def test_a_peer_that_cuts_a_stream(mesh, peer):
    def cut(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "200")])
        conn.h2.reset_stream(sid, h2.errors.ErrorCodes.FLOW_CONTROL_ERROR)

    peer.behaviour = cut
    assert fails(mesh, "http2_error", peer.pod.ip) == ["ConnectionResetError"]


def test_a_peer_that_falls_silent(mesh, peer):
    """Its kernel still acknowledges everything."""
    over = threading.Event()

    def silent(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "200")])
        conn.tls.sendall(conn.h2.data_to_send())
        over.wait(60)

    peer.behaviour = silent
    try:
        assert fails(mesh, "tunnel_ping_timeout", peer.pod.ip) == ["ConnectionResetError"]
    finally:
        over.set()


def test_a_half_closed_connection_on_which_nothing_comes(mesh):
    assert fails(mesh, "idle_half_closed", mesh.outside.ip, "end") == ["ConnectionResetError"]


def test_a_half_closed_connection_in_a_tunnel_on_which_nothing_comes(mesh):
    """Both proxies wait for as long; who is the first tells the other."""
    said = lambda: sum(len(n.access_log("idle_half_closed: ")) for n in mesh.nodes)
    before, lines = [n.failures("idle_half_closed") for n in mesh.nodes], said()
    assert mesh.web.python(CALL, mesh.shop.ip, 7000, "end").split() == ["ConnectionResetError"]
    wait_for(
        lambda: [n.failures("idle_half_closed") for n in mesh.nodes] != before,
        "the reason in the metrics of one",
    )
    wait_for(lambda: said() > lines, "the reason in an access log")
