# SPDX-License-Identifier: Apache-2.0
"""bruma-proxy under a stock CNI agent: pods named over ZDS, captured by the stock rules. Two such nodes, and
one whose pods bruma-agent enrolls."""

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO, ONE_SHOT, SEND, SERVER_FIRST, SINK
from support.nodes.zds_node import ZdsNode
from support.system import sh, wait_for
from support.wire.segments import Wire

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])

# How long a connect takes that is to be refused, and with what it ends.
REFUSED = """
import socket, sys, time
begin = time.monotonic()
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(20)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b"x")
    end = "end" if s.recv(10) == b"" else "data"
except OSError as e:
    end = type(e).__name__
print(end, time.monotonic() - begin)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=3, workers=2, node_kinds=[ZdsNode, ZdsNode, MeshNode]) as m:
        m.web, m.near = m.pod("web", node=0), m.pod("near", node=0)
        m.shop, m.bruma = m.pod("shop", node=1), m.pod("bruma", node=2)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        m.echo = {pod.name: pod.server(ECHO, "8080") for pod in (m.near, m.shop, m.bruma, m.outside)}
        for pod in (m.shop, m.bruma):
            pod.server(SINK, "9000")
        m.shop.server(SERVER_FIRST, "2525")
        yield m


def source(pod, family):
    return [f"::ffff:{pod.ip}", pod.ip6][family]


@FAMILIES
@pytest.mark.parametrize(
    ("client", "server"), [("web", "shop"), ("web", "near"), ("web", "bruma"), ("bruma", "shop")]
)
def test_hbone_between_pods(mesh, client, server, family):
    """Both ways between nodes of the two kinds, and within one: encrypted, and the server sees its client."""
    client, server = getattr(mesh, client), getattr(mesh, server)
    with Wire(server.node) as wire:
        assert client.python(ONE_SHOT, server.ips[family], 8080, "ping") == "ping"
        assert not wire.plain([client, server]) and not wire.holds(b"ping")
    wait_for(
        lambda: f"FROM {source(client, family)} " in mesh.echo[server.name].text(),
        "the client's address at the server",
    )
    wait_for(
        lambda: [
            x
            for x in client.node.access_log()
            if 'direction="outbound"' in x and f'dst.identity="{server.identity}"' in x
        ],
        "the client's side in the log",
    )
    wait_for(
        lambda: [
            x
            for x in server.node.access_log()
            if 'direction="inbound"' in x and f'src.identity="{client.identity}"' in x
        ],
        "the server's side in the log",
    )


@FAMILIES
def test_outside_to_mesh_in_plaintext(mesh, family):
    assert mesh.outside.python(ONE_SHOT, mesh.shop.ips[family], 8080, "plain") == "plain"
    wait_for(
        lambda: f"FROM {source(mesh.outside, family)} " in mesh.echo["shop"].text(),
        "the client's address at the server",
    )
    address = [f"{mesh.outside.ip}:", f"[{mesh.outside.ip6}]:"][family]
    wait_for(
        lambda: [
            x for x in mesh.nodes[1].access_log() if 'direction="inbound"' in x and f"src.addr={address}" in x
        ],
        "its line",
    )


@FAMILIES
def test_mesh_to_outside_is_passed_through(mesh, family):
    assert mesh.web.python(ONE_SHOT, mesh.outside.ips[family], 8080, "plain") == "plain"
    wait_for(
        lambda: f"FROM {source(mesh.web, family)} " in mesh.echo["outside"].text(),
        "the pod's own address at the server",
    )


def test_own_address_and_loopback(mesh):
    for address in (mesh.shop.ip, mesh.shop.ip6, "127.0.0.1", "::1"):
        assert mesh.shop.python(ONE_SHOT, address, 8080, "self") == "self", address


@FAMILIES
@pytest.mark.parametrize("client", ["web", "bruma", "outside"])
def test_a_closed_port_is_refused_quickly(mesh, client, family):
    end, seconds = getattr(mesh, client).python(REFUSED, mesh.shop.ips[family], 9999).split()
    assert end in ("ConnectionResetError", "end"), end
    assert float(seconds) < 3, seconds


@FAMILIES
def test_the_proxys_own_ports_are_no_destination(mesh, family):
    """From outside and from the pod itself: a connection that goes in circles would take all descriptors."""
    address = mesh.shop.ips[family]
    for client in (mesh.outside, mesh.web, mesh.shop):
        for port in (15001, 15006):
            end = client.python(REFUSED, address, port).split()[0]
            assert end in ("ConnectionResetError", "ConnectionRefusedError", "end"), (client.name, port, end)
    for port in (15001, 15006):
        assert (
            mesh.shop.python(REFUSED, ["127.0.0.1", "::1"][family], port).split()[0] == "ConnectionResetError"
        ), port


def test_server_first_protocol(mesh):
    code = """
import socket, sys
s = socket.create_connection((sys.argv[1], 2525), timeout=20)
f = s.makefile("rwb")
print(f.readline().decode().strip())
f.write(b"helo\\n"); f.flush()
print(f.readline().decode().strip())
"""
    for client in (mesh.web, mesh.outside, mesh.bruma):
        assert client.python(code, mesh.shop.ip).split("\n")[:2] == ["220 welcome", "250 helo"], client.name


@pytest.mark.parametrize(("client", "server"), [("web", "shop"), ("web", "bruma"), ("outside", "shop")])
def test_64_mebibytes_and_half_close(mesh, client, server):
    assert (
        getattr(mesh, client).python(SEND, getattr(mesh, server).ip, 9000, 64, timeout=120).strip() == "same"
    )


HTTP = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{self.path} for {self.client_address[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
s = Server(("::", 8000), Handler)
print("READY", flush=True)
s.serve_forever()
"""


def test_http(mesh):
    mesh.shop.server(HTTP)
    for client in (mesh.web, mesh.bruma, mesh.outside):
        for family in (0, 1):
            url = f"http://{[mesh.shop.ip, f'[{mesh.shop.ip6}]'][family]}:8000/hello"
            r = client.run("curl", "-sS", "-g", "--noproxy", "*", "--max-time", "20", url, url)
            assert r.stdout == f"/hello for {source(client, family)}" * 2, (client.name, family)


# Rounds of connections at once, each of which must be answered.
MANY = """
import select, socket, sys
rounds, count = int(sys.argv[3]), int(sys.argv[4])
for i in range(rounds):
    socks = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) for _ in range(count)]
    for s in socks:
        s.sendall(b"x")
    bad = 0
    for s in socks:
        try:
            bad += s.recv(10) != b"x"
        except OSError:
            bad += 1
        s.close()
    print(i, bad, flush=True)
    if bad:
        sys.exit(f"{bad} of {count} in round {i}")
"""


def test_plaintext_connections_never_meet_their_own_delivery(mesh):
    """The delivery must not come from a port that a live connection of the same client has: conntrack, and
    the pod, would take the one for the other. A narrow range of ports makes that likely instead of rare. (Not
    narrower: the kernel gives connect() and bind() different halves of it, and connections that have ended
    hold their ports for a minute.)"""
    for pod in (mesh.outside, mesh.shop):
        with inside(pod.netns), open("/proc/sys/net/ipv4/ip_local_port_range", "w") as f:
            f.write("40000 43999")
    try:
        mesh.outside.python(MANY, mesh.shop.ip, 8080, 8, 200, timeout=120)
    finally:
        for pod in (mesh.outside, mesh.shop):
            with inside(pod.netns), open("/proc/sys/net/ipv4/ip_local_port_range", "w") as f:
                f.write("32768 60999")


def test_probes_of_the_node_go_to_the_application(mesh):
    """They come from an address that the rules exempt, so policies do not see them, and neither do we."""
    node = mesh.nodes[1]
    sh("ip", "-n", node.netns, "addr", "add", "169.254.7.127/32", "dev", "lo")
    sh("ip", "-n", mesh.shop.netns, "route", "add", "169.254.7.127", "via", node.gateway)
    try:
        code = ONE_SHOT.replace("timeout=20", "timeout=20, source_address=('169.254.7.127', 0)")
        out = sh(
            "nsenter",
            f"--net=/run/netns/{node.netns}",
            "/usr/bin/python3",
            "-c",
            code,
            mesh.shop.ip,
            "8080",
            "probe",
        )
        assert out == "probe"
        wait_for(
            lambda: "FROM ::ffff:169.254.7.127 " in mesh.echo["shop"].text(), "the probe at the application"
        )
        assert "169.254.7.127" not in node.proxy.text()
    finally:
        sh("ip", "-n", node.netns, "addr", "del", "169.254.7.127/32", "dev", "lo")
        sh("ip", "-n", mesh.shop.netns, "route", "del", "169.254.7.127")


def test_a_destination_that_is_not_the_pods_is_not_delivered(mesh):
    """A neighbour may send packets for anybody to the pod, and the rules redirect them. The pod is no way to
    others."""
    sh("ip", "-n", mesh.outside.netns, "route", "add", "203.0.113.7", "via", mesh.shop.ip)
    try:
        assert mesh.outside.python(REFUSED, "203.0.113.7", 8080).split()[0] in ("ConnectionResetError", "end")
        wait_for(
            lambda: [
                x for x in mesh.nodes[1].proxy.text().splitlines() if "203.0.113.7" in x and "not_of_pod" in x
            ],
            "the reason",
        )
    finally:
        sh("ip", "-n", mesh.outside.netns, "route", "del", "203.0.113.7")


def test_policy_denies_tunnels_and_plaintext(mesh):
    """Deny by identity and by address; then everybody is let in again. A live connection is cut by the
    change."""
    hold = mesh.web.popen(
        "/usr/bin/python3",
        "-u",
        "-c",
        """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"x"); s.recv(1)
print("READY", flush=True)
s.settimeout(30)
try:
    print("ENDED" if s.recv(1) == b"" else "DATA", flush=True)
except ConnectionResetError:
    print("ENDED", flush=True)
""",
        mesh.shop.ip,
    )
    wait_for(lambda: "READY" in hold.text(), "a connection that lives")
    mesh.policies = [
        {
            "name": "no-web",
            "namespace": "demo",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": False,
            "rules": [
                [[{"principals": [{"Exact": mesh.web.identity.removeprefix("spiffe://")}]}]],
                [[{"sourceIps": [f"{mesh.outside.ip}/32"]}]],
            ],
        }
    ]
    mesh.write()
    try:
        wait_for(lambda: "ENDED" in hold.text(), "the live connection to end")
        for client in (mesh.web, mesh.outside):
            end, seconds = client.python(REFUSED, mesh.shop.ip, 8080).split()
            assert end in ("ConnectionResetError", "end") and float(seconds) < 3, (client.name, end)
        assert mesh.bruma.python(ONE_SHOT, mesh.shop.ip, 8080, "still") == "still"
        for who in (mesh.web.identity, f"src.addr={mesh.outside.ip}:"):
            wait_for(
                lambda: [
                    x for x in mesh.nodes[1].proxy.text().splitlines() if "policy_denied" in x and who in x
                ],
                f"the reason for {who}",
            )
    finally:
        mesh.policies = []
        mesh.write()
    wait_for(
        lambda: mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "again", check=False) == "again",
        "the client to be let in again",
    )


def test_what_the_pages_say(mesh):
    node = mesh.nodes[0]
    state = node.config_dump()["workloadState"]
    assert state[mesh.web.uid]["state"] == "Up"
    assert state[mesh.web.uid]["info"] == {
        "name": "web",
        "namespace": "demo",
        "serviceAccount": "web",
        "outboundPolicy": "ALLOW_ANY",
    }
    metrics = node.metrics()
    assert (
        "workload_manager_active_proxy_count 2\n" in metrics
        and "workload_manager_pending_proxy_count 0\n" in metrics
    )
    assert "workload_manager_proxies_started_total 2\n" in metrics and "proxies_stopped" not in metrics


def test_nothing_leaks_into_the_proxys_own_namespace(mesh):
    """Listeners are in pods, three each, on the ports of the rules; none is in the node's."""
    for pod in (mesh.web, mesh.shop):
        listening = sh("ss", "-N", pod.netns, "-Hltn")
        ports = sorted(int(line.split()[3].rsplit(":", 1)[1]) for line in listening.splitlines())
        assert [p for p in ports if p > 15000] == [15001, 15006, 15008], listening
    own = sh("ss", "-N", mesh.nodes[0].netns, "-Hltn")
    assert not [p for p in (15001, 15006, 15008) if f":{p} " in own], own
