# SPDX-License-Identifier: Apache-2.0
"""Services of another network, through a stock Envoy as its east-west gateway: a tunnel to the gateway, and in it one to the
node of the pod that the gateway chose."""

import json
import re

import pytest

from support.networks import AWAY, HOST, PORTS, VIP4, VIP6, Networks
from support.nodes.pod_programs import ECHO, ONE_SHOT, SEND, SINK
from support.system import wait_for
from support.xds.site import CLIENT

# So many connections, all open at once; what each of them got.
MANY = """
import json, socket, sys, threading
n = int(sys.argv[2])
ready, got = threading.Barrier(n), [None] * n
def one(i):
    try:
        s = socket.create_connection((sys.argv[1], 80), timeout=40)
        s.sendall(b"%08d" % i)
        d = b""
        while len(d) < 8:
            d += s.recv(8 - len(d)) or b"?" * 8
        ready.wait(40)
        got[i] = d.decode() == "%08d" % i
    except Exception as e:
        got[i] = type(e).__name__
threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
for t in threads: t.start()
for t in threads: t.join()
print(json.dumps([x for x in got if x is not True]))
"""

# Gets so many MiB, and checks them.
FETCH = """
import hashlib, socket, sys
s = socket.create_connection((sys.argv[1], 82), timeout=60)
s.sendall(sys.argv[2].encode() + b"\\n")
h, n = hashlib.sha256(), 0
while d := s.recv(1 << 18):
    h.update(d)
    n += len(d)
print(n >> 20, h.hexdigest())
"""

# Sends as many MiB as it is told to.
SOURCE = """
import hashlib, socket, sys, threading
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
block = bytes((i * 131 + i // 257) & 255 for i in range(1 << 20))
def serve(c):
    h = hashlib.sha256()
    count = int(c.makefile().readline())
    for i in range(count):
        b = bytes([i & 255]) + block[1:]
        h.update(b)
        c.sendall(b)
    print("SENT", h.hexdigest(), flush=True)
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""

RESET = """
import socket, struct, sys, time
s = socket.create_connection((sys.argv[1], 80), timeout=20)
s.sendall(b"hello")
s.recv(5)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
"""

# Answers by a reset.
RESETTER = """
import socket, struct, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.recv(100)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
"""


@pytest.fixture(scope="module")
def two(program):
    with Networks(program) as n:
        n.remote["capacity"] = 2
        n.start()
        for pod in (n.shop, n.shop2):
            pod.echo = pod.server(ECHO, "8080")
            pod.server(SINK, "9000")
            pod.source = pod.server(SOURCE, "7000")
        yield n


def lines(n, before=(0, 0)):
    """Of the access log at both nodes since then."""
    return [node.access_log()[at:] for node, at in zip(n.nodes, before, strict=True)]


def now(n):
    return [len(node.access_log()) for node in n.nodes]


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])
def test_a_service_with_remote_endpoints_alone(two, vip):
    assert two.web.python(CLIENT, vip, 80).strip() == "ping"


def test_both_nodes_say_who_it_was(two):
    """The gateway hides addresses. Who is at the other end, both take from certificates and baggage."""
    before = now(two)
    assert two.web.python(CLIENT, VIP4, 80).strip() == "ping"
    ours, theirs = wait_for(lambda: all(lines(two, before)) and lines(two, before), "both lines")
    gateway = two.pods[0]
    for text in (
        f"dst.addr={gateway.ip}:15008",
        f'dst.hbone_addr="{HOST}:80"',
        f'dst.service="{HOST}"',
        f'dst.identity="{two.shop.identity}"',
        f'src.identity="{two.web.identity}"',
    ):
        assert text in ours[0] or text.replace('"', "") in ours[0].replace('"', ""), (text, ours[0])
    assert "error=" not in ours[0] + theirs[0]
    for text in (f'src.identity="{two.web.identity}"', f'dst.service="{HOST}"', f"src.addr={gateway.ip}:"):
        assert text in theirs[0], (text, theirs[0])


def series(node, reporter):
    found = re.findall(
        rf'^istio_tcp_connections_opened_total{{(reporter="{reporter}".*)}} ', node.metrics(), re.MULTILINE
    )
    return [dict(re.findall(r'(\w+)="([^"]*)"', labels)) for labels in found]


def test_labels_of_both_sides_come_from_baggage(two):
    assert two.web.python(CLIENT, VIP4, 80).strip() == "ping"
    ours = [s for s in series(two.nodes[0], "source") if s["destination_service"] == HOST]
    assert ours and {s["destination_workload"] for s in ours} <= {"shop", "shop-2"}, ours
    for s in ours:
        assert s["destination_principal"] == two.shop.identity and s["source_workload"] == "web"
        assert s["destination_region"] == AWAY and s["connection_security_policy"] == "mutual_tls"
    theirs = [s for s in series(two.nodes[1], "destination") if s["destination_service"] == HOST]
    assert theirs and {s["source_workload"] for s in theirs} == {"web"}, theirs
    assert {s["source_principal"] for s in theirs} == {two.web.identity}
    assert {s["source_region"] for s in theirs} == {"home"}, "by its own address it would be the gateway"


def test_policies_judge_the_client_not_the_gateway(two):
    two.away.deny(two.web.rule())
    two.away.write()
    try:
        # One that is let in just before is cut, which has another reason.
        line = wait_for(
            lambda: (
                two.web.python(CLIENT, VIP4, 80).strip() != "ping"
                and [x for x in two.nodes[1].access_log("error=") if "policy_denied" in x]
            ),
            "the policy to count, and the server's line",
        )[-1]
        assert f'src.identity="{two.web.identity}"' in line
        assert two.near.python(CLIENT, VIP4, 80).strip() == "ping"
    finally:
        two.away.policies.clear()
        two.away.write()
    wait_for(lambda: two.web.python(CLIENT, VIP4, 80).strip() == "ping", "the policy to be gone")


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])
def test_bulk_to_the_server(two, vip):
    assert two.web.python(SEND, vip, 81, 64, timeout=120).strip() == "same"


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])
def test_bulk_to_the_client(two, vip):
    size, digest = two.web.python(FETCH, vip, 64, timeout=120).split()
    assert size == "64"
    assert f"SENT {digest}" in two.shop.source.text() + two.shop2.source.text()


def test_half_close(two):
    assert two.web.python(ONE_SHOT, VIP4, 80, "half closed") == "half closed"
    assert two.web.python(ONE_SHOT, VIP6, 80, "x" * 60000) == "x" * 60000


def test_reset_of_the_client_reaches_the_server(two):
    before = two.shop.echo.text().count("ERROR") + two.shop2.echo.text().count("ERROR")
    two.web.python(RESET, VIP4)
    wait_for(
        lambda: two.shop.echo.text().count("ERROR") + two.shop2.echo.text().count("ERROR") > before,
        "the reset at the server",
    )


def test_reset_of_the_server_reaches_the_client(two):
    for pod in (two.shop, two.shop2):
        pod.source.kill()
        pod.resetter = pod.server(RESETTER, "7000")
    try:
        code = CLIENT.replace('b"ping"', 'b"ping\\\\n"')
        assert two.web.python(CLIENT, VIP4, 82).strip() == "ConnectionResetError", code
    finally:
        for pod in (two.shop, two.shop2):
            pod.resetter.kill()
            pod.source = pod.server(SOURCE, "7000")


def test_many_at_once_on_few_tunnels(two):
    """200 connections; the gateway sees streams of one tunnel, as many as there are endpoints to choose."""
    gateway = two.gateways[0]
    streams, tunnels = (
        gateway.stat("connect_terminate.downstream_rq_total"),
        gateway.stat("connect_terminate.downstream_cx_total"),
    )
    before = now(two)
    assert json.loads(two.web.python(MANY, VIP4, 200, timeout=120)) == []
    assert gateway.stat("connect_terminate.downstream_rq_total") - streams <= 4
    assert gateway.stat("connect_terminate.downstream_cx_total") - tunnels <= 1
    wait_for(lambda: len(lines(two, before)[1]) >= 200, "the lines of all")
    theirs = lines(two, before)[1]
    assert {re.search(r'dst.workload="([^"]*)"', x)[1] for x in theirs} == {"shop", "shop-2"}, "both serve"
    assert [x for x in lines(two, before)[0] + theirs if "error=" in x] == []


STAY = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), timeout=60)
s.sendall(b"ping")
s.recv(4)
print("OPEN", flush=True)
s.recv(4)
"""


def test_open_connections_are_shown_as_what_they_are(two):
    """Under the names that istioctl knows; at the other node it is one that comes in like any other."""
    p = two.web.popen("/usr/bin/python3", "-u", "-c", STAY, VIP4)
    try:
        p.wait_for_text("OPEN")

        def protocols(node, direction):
            pods = node.config_dump()["workloadState"].values()
            return [c["protocol"] for pod in pods for c in pod.get("connections", {}).get(direction, [])]

        ours, theirs = two.nodes
        wait_for(lambda: protocols(ours, "outbound") == ["DOUBLEHBONE"], "the connection in the dump")
        wait_for(lambda: protocols(theirs, "inbound") == ["HBONE"], "the same at the other node")
        assert "DOUBLEHBONE" in ours.ctl("connections").stdout
    finally:
        p.kill()


def test_a_port_that_the_gateway_does_not_know(two):
    """It answers 404."""
    assert set(PORTS) == {80, 81, 82}
    before = len(two.nodes[0].access_log("error="))
    two.home.services[0]["ports"] = {**PORTS, 83: 8080}
    two.home.extra[0]["services"] = {f"demo/{HOST}": {**PORTS, 83: 8080}}
    two.home.write()
    try:
        wait_for(
            lambda: any("83" in s["ports"] for s in two.nodes[0].config_dump()["services"]),
            "the port to be known",
        )
        assert two.web.python(CLIENT, VIP4, 83).strip() == "ConnectionResetError"
        line = wait_for(lambda: two.nodes[0].access_log("error=")[before:], "the line")[-1]
        assert "gateway_unavailable: east-west gateway" in line and "status 404" in line, line
    finally:
        two.write()


def test_explain_names_the_gateway_and_both_layers(two):
    lines = two.nodes[0].ctl("explain", "demo/web", f"{VIP4}:80").stdout
    for text in (
        f'endpoints in network "{AWAY}", of weight 2',
        f"to the gateway {AWAY}/{two.pods[0].ip}, port 15008, which must be spiffe://cluster.local/ns/demo/sa/gateway",
        f"for {HOST}, which must be {two.shop.identity}",
    ):
        assert text in lines, (text, lines)
    # That address is another network's: here it is nobody's.
    lines = two.nodes[0].ctl("explain", "demo/web", f"{two.pods[0].ip}:15008").stdout
    assert "outside the mesh" in lines, lines
