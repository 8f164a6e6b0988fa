# SPDX-License-Identifier: Apache-2.0
"""Histograms of connections: each is counted under its way, on both sides, and what it waited for is told."""

import re
import subprocess

import pytest

from support.nodes.direct import LONG
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import placed, run, wait_for

WORD = "so many words"
# Says something, and ends once it was said back.
LATE = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=60)
print("CONNECTED", flush=True)
sys.stdin.readline()
s.sendall(b"words")
print(s.recv(100).decode(), flush=True)
"""
# A CA's place, which says nothing until it is told to.
FORWARD = """
import socket, sys, threading
s = socket.create_server(("127.0.0.1", 15013), backlog=64)
print("READY", flush=True)
sys.stdin.readline()
def pump(a, b):
    try:
        while d := a.recv(65536):
            b.sendall(d)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass
while True:
    c, _ = s.accept()
    to = socket.create_connection(("127.0.0.1", 15012))
    for pair in ((c, to), (to, c)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


def meshed(**options):
    options = {"agent_options": LONG, **options}
    m = Mesh(nodes=2, **options)
    m.web, m.near, m.shop = m.pod("web"), m.pod("near"), m.pod("shop", node=1)
    m.outside = m.pod("outside", node=1, namespace="outside")
    m.outside.outside = True
    return m


@pytest.fixture(scope="module")
def mesh():
    with meshed(proxy_env={"BRUMA_SAME_NODE": "relay"}) as m:
        m.start()
        for pod in (m.shop, m.near, m.outside):
            pod.server(ECHO, "8080")
        for _ in range(2):
            m.web.python(ONE_SHOT, m.shop.ip, 8080, WORD)
        m.web.python(ONE_SHOT, m.near.ip, 8080, WORD)
        m.web.python(ONE_SHOT, m.outside.ip, 8080, WORD)
        m.outside.python(ONE_SHOT, m.shop.ip, 8080, WORD)
        yield m


def samples(node, name):
    """{labels: value}"""
    return {
        tuple(re.findall(r'="([^"]*)"', labels)): float(value)
        for labels, value in re.findall(rf"(?m)^{name}{{(.*)}} (\S+)$", node.metrics())
    }


EXPECTED = [
    {
        ("source", "tunnel"): 2,
        ("source", "same_node"): 1,
        ("destination", "same_node"): 1,
        ("source", "plaintext"): 1,
    },
    {("destination", "tunnel"): 2, ("destination", "plaintext"): 1},
]


@pytest.mark.parametrize("name", ["duration_seconds", "first_byte_seconds", "bytes"])
@pytest.mark.parametrize("side", [0, 1])
def test_each_is_counted_under_its_way(mesh, name, side):
    wait_for(
        lambda: samples(mesh.nodes[side], f"bruma_connection_{name}_count") == EXPECTED[side], "all of them"
    )


@pytest.mark.parametrize("side", [0, 1])
def test_they_carried_what_was_said(mesh, side):
    expected = {way: n * 2 * len(WORD) for way, n in EXPECTED[side].items()}
    wait_for(lambda: samples(mesh.nodes[side], "bruma_connection_bytes_sum") == expected, "all bytes")


def test_the_first_byte_comes_before_the_end(mesh):
    for node in mesh.nodes:
        lives, first = (
            samples(node, f"bruma_connection_{n}_seconds_sum") for n in ("duration", "first_byte")
        )
        assert all(0 < first[way] <= lives[way] for way in lives)


def test_one_tunnel_and_who_waited_for_it(mesh):
    """The second connection found it open."""
    first, second = mesh.nodes
    assert samples(first, "bruma_tls_handshake_seconds_count") == {("source",): 1}
    assert samples(second, "bruma_tls_handshake_seconds_count") == {("destination",): 1}
    assert samples(first, "bruma_connection_wait_seconds_count")[("tunnel",)] == 1
    assert ("tunnel",) not in samples(second, "bruma_connection_wait_seconds_count")
    waited = samples(first, "bruma_connection_wait_seconds_sum")[("tunnel",)]
    assert waited >= samples(first, "bruma_tls_handshake_seconds_sum")[("source",)]


def test_sockets_by_leg(mesh):
    """Of a connection by a tunnel each proxy has one; of the others it has both. The tunnel itself is open."""
    first = {("client",): 4, ("server",): 2}
    second = {("client",): 1, ("server",): 3}
    for node, expected in zip(mesh.nodes, (first, second), strict=True):
        wait_for(lambda: samples(node, "bruma_tcp_round_trip_seconds_count") == expected, "each socket")
        assert set(samples(node, "bruma_tcp_retransmitted_segments_total")) == set(expected)


def test_what_had_to_be_sent_again(mesh):
    """The application's first bytes are lost until the kernel has sent them twice."""
    client = mesh.web.pipe(
        "/usr/bin/python3", "-u", "-c", LATE, mesh.outside.ip, stdin=-1, stdout=-1, text=True
    )
    assert client.stdout.readline() == "CONNECTED\n"
    rules = "add table inet lossy; add chain inet lossy in { type filter hook input priority 0; }; "
    rules += "add rule inet lossy in tcp dport 8080 tcp flags & psh == psh counter drop"
    before = samples(mesh.nodes[0], "bruma_tcp_retransmitted_segments_total")[("server",)]
    run(["nft", rules], netns=mesh.outside.netns)

    def dropped():
        text = run(["nft", "list", "table", "inet", "lossy"], netns=mesh.outside.netns).stdout
        return int(re.search(r"packets (\d+)", text)[1])

    client.stdin.write("\n")
    client.stdin.flush()
    wait_for(lambda: dropped() >= 2, "a segment to be sent again")
    run(["nft", "delete table inet lossy"], netns=mesh.outside.netns)
    assert client.stdout.readline() == "words\n" and client.wait(20) == 0
    wait_for(
        lambda: samples(mesh.nodes[0], "bruma_tcp_retransmitted_segments_total")[("server",)] > before,
        "the count",
    )


def test_who_waits_for_an_identity():
    """A CA that is silent until there is a connection that waits."""
    options = {"CA_ADDRESS": "https://localhost:15013", "BRUMA_SOURCE_TIMEOUT": "60s"}
    with meshed(proxy_env=options) as m:
        node = m.nodes[0]
        argv = placed(["/usr/bin/python3", "-u", "-c", FORWARD], node.netns)
        ca = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert ca.stdout.readline() == "READY\n"
            m.start()
            m.near.server(ECHO, "8080")
            client = m.web.pipe(
                "/usr/bin/python3", "-u", "-c", LATE, m.near.ip, stdin=-1, stdout=-1, text=True
            )
            assert client.stdout.readline() == "CONNECTED\n"
            wait_for(lambda: not waiting_to_be_accepted(m.web), "the proxy to have the connection")
            ca.stdin.write("\n")
            ca.stdin.flush()
            client.stdin.write("\n")
            client.stdin.flush()
            assert client.stdout.readline() == "words\n"
        finally:
            ca.kill()
            ca.wait()
        assert samples(node, "bruma_connection_wait_seconds_count")[("identity",)] >= 1
        assert samples(node, "bruma_connection_wait_seconds_sum")[("identity",)] > 0


def waiting_to_be_accepted(pod):
    return sum(int(line.split()[1]) for line in pod.run("ss", "-Hltn").stdout.splitlines())


def test_direct_ones_too():
    with meshed(agent_options=("--direct-outside", "true", "--direct-inbound", "true")) as m:
        m.start()
        m.outside.server(ECHO, "8080")
        node = m.nodes[0]

        def counted():
            m.web.python(ONE_SHOT, m.outside.ip, 8080, WORD)
            return samples(node, "bruma_connection_duration_seconds_count").get(("source", "direct"))

        wait_for(counted, "one that goes directly")
        assert samples(node, "bruma_connection_bytes_sum")[("source", "direct")] % (2 * len(WORD)) == 0
        assert ("source", "direct") not in samples(node, "bruma_connection_first_byte_seconds_count")


def test_switched_off():
    with meshed(proxy_env={"BRUMA_CONNECTION_METRICS": "false"}) as m:
        m.start()
        m.shop.server(ECHO, "8080")
        m.web.python(ONE_SHOT, m.shop.ip, 8080, WORD)
        for node in m.nodes:
            wait_for(lambda: samples(node, "istio_tcp_connections_closed_total"), "the end")
            assert not re.search("bruma_(connection_|tls_handshake_seconds|tcp_)", node.metrics())
