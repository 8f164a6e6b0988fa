# SPDX-License-Identifier: Apache-2.0
"""The servers of a node's agent and proxy (pages, metrics, readiness, built-in control plane) under clients
that only hold connections: whoever has something to ask is answered, and a proxy that starts gets its state
and its certificates."""

import contextlib
import re
import subprocess
import time

import pytest

from support.nodes.mesh import Mesh
from support.system import Process, sh, wait_for

# Holds connections: TO PORT COUNT WHAT [SOURCE...]. Says how many are open at first; what the server closes
# is opened again.
HOLD = r"""
import os, select, socket, sys, time
uid, to, port, count, what = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
sources = sys.argv[6:] or [""]
os.setuid(uid)
SAID = {"nothing": b"", "half": b"GET /metrics HTTP/1.1\r\nHost: lo",
        "body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
        "reader": b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 600}[what]
def one(i):
    s = socket.socket(socket.AF_INET)
    s.settimeout(2)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    if sources[0]:
        s.bind((sources[i % len(sources)], 0))
    try:
        s.connect((to, port))
        s.sendall(SAID)
    except OSError:
        pass
    s.setblocking(False)
    return s
held = [one(i) for i in range(count)]
print("holds", len(held), flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.1)
    for i, s in enumerate(held):
        if what == "reader":
            continue
        try:
            gone = s.recv(4096, socket.MSG_PEEK) == b"" or True
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            s.close()
            held[i] = one(i)
"""

SERVERS = {
    15021: "/healthz/ready",
    15020: "/metrics",
    15014: "/metrics",
    8000: "/readyz",
    15000: "/config_dump",
}
NOBODY = 65534


@pytest.fixture(scope="module")
def mesh():
    options = ("--metrics-port", "15014", "--ready-port", "8000")
    with Mesh(nodes=1, agent_options=options) as m:
        m.web = m.pod("web")
        m.start()
        yield m


@contextlib.contextmanager
def held(mesh, netns, uid, to, port, count, what, *sources):
    p = Process(
        ["/usr/bin/python3", "-c", HOLD, str(uid), to, str(port), str(count), what, *sources],
        f"{mesh.dir}/hold-{time.monotonic_ns()}.log",
        netns=netns,
    )
    try:
        wait_for(lambda: p.text().startswith("holds") or not p.alive(), "the connections", 60)
        assert p.alive(), p.text()
        yield p
    finally:
        p.kill()


def turned_away(node, port, server):
    return sum(
        int(n)
        for n in re.findall(
            rf'^bruma_connections_turned_away_total{{server="{server}"}} (\d+)',
            node.http(port, "/metrics")[1],
            re.M,
        )
    )


@pytest.mark.parametrize("what", ["nothing", "half", "body"])
@pytest.mark.parametrize("port", SERVERS)
def test_who_only_holds_connections_keeps_nobody_out(mesh, port, what):
    """An ordinary user of the node, from any address of the loopback; then somebody else's pod where the port
    is open to it."""
    node = mesh.nodes[0]
    with held(
        mesh, node.netns, NOBODY, "127.0.0.1", port, 200, what, *(f"127.0.0.{i}" for i in range(2, 40))
    ):
        for _ in range(10):
            began = time.monotonic()
            assert node.http(port, SERVERS[port])[0] == 200
            assert (
                time.monotonic() - began < 5
            )  # the limit of a probe is the client's own timeout; this is only "not hung"
    if port in (15021, 15020, 15014):
        with held(mesh, mesh.web.netns, 0, node.gateway, port, 100, what):
            for _ in range(5):
                assert node.http(port, SERVERS[port])[0] == 200


@pytest.mark.parametrize("port", [15020, 15014])
def test_readers_that_do_not_read_keep_nobody_out(mesh, port):
    node = mesh.nodes[0]
    with held(mesh, node.netns, NOBODY, "127.0.0.1", port, 100, "reader"):
        for _ in range(5):
            assert node.http(port, "/metrics")[0] == 200
            assert node.http(15021, "/healthz/ready")[0] == 200


def test_many_sources_share_what_there_is(mesh):
    """More sources than connections for each: the probe of the kubelet is answered all the same."""
    node = mesh.nodes[0]
    extra = [f"{mesh.web.ip.rsplit('.', 1)[0]}.{n}" for n in range(150, 190)]
    for address in extra:
        sh("ip", "-n", mesh.web.netns, "addr", "add", f"{address}/24", "dev", "eth0")
    try:
        with held(mesh, mesh.web.netns, 0, node.gateway, 15021, 160, "half", *extra):
            for _ in range(10):
                assert node.http(15021, "/healthz/ready")[0] == 200
    finally:
        for address in extra:
            sh("ip", "-n", mesh.web.netns, "addr", "del", f"{address}/24", "dev", "eth0")


def test_what_was_turned_away_is_counted_and_said(mesh):
    node = mesh.nodes[0]
    before = turned_away(node, 15020, "readiness")
    with held(mesh, node.netns, NOBODY, "127.0.0.1", 15021, 100, "half"):
        assert turned_away(node, 15020, "readiness") >= before + 84
    assert re.search(
        rf"a connection is rejected\tserver=\S+ source=uid-{NOBODY} reason=server_crowded", node.proxy.text()
    )


@pytest.mark.parametrize("what", ["nothing", "half"])
def test_idle_connections_do_not_keep_a_proxy_from_its_control_plane(mesh, what):
    """66 of an ordinary user at 127.0.0.1:15012, which it may open as everybody: a proxy that starts gets its
    state and the certificates of its pods."""
    node = mesh.nodes[0]
    with held(mesh, node.netns, NOBODY, "127.0.0.1", 15012, 66, what):
        before = turned_away(node, 15014, "control-plane")
        node.proxy.kill()
        # Its places are taken at once, and the next ones turned away again.
        wait_for(lambda: turned_away(node, 15014, "control-plane") > before, "its places to be taken")
        node.start_proxy(wait=False)
        wait_for(node.ready, "the proxy to be ready", 20)
        wait_for(
            lambda: any(c.get("state") == "Available" for c in node.config_dump().get("certificates", [])),
            "a certificate",
            20,
        )
    assert turned_away(node, 15014, "control-plane") >= 50
    assert re.search(
        r"a connection is rejected\tserver=control-plane source=uid-65534 reason=server_crowded",
        node.agent.text(),
    )


def test_a_client_with_a_token_is_not_turned_away(mesh):
    """The stream of a proxy that has shown its token lives through any number of others' connections, also of
    its own user."""
    node = mesh.nodes[0]
    said = len(node.proxy.text())
    with held(mesh, node.netns, 0, "127.0.0.1", 15012, 100, "nothing"):
        mesh.extra.append({"name": "news", "namespace": "demo", "workloadIps": ["10.255.0.9"]})
        mesh.write()
        wait_for(
            lambda: any(w["name"] == "news" for w in node.config_dump()["workloads"]), "news by that stream"
        )
        assert node.http(15021, "/healthz/ready")[0] == 200
    mesh.extra.clear()
    mesh.write()
    ended = [
        line for line in node.proxy.text()[said:].splitlines() if "\txds\t" in line and "\twarn\t" in line
    ]
    assert not ended, ended


# Asks as UID: METHOD PATH HEADER...; the status, or why there is none.
ASK = r"""
import os, socket, sys
os.setuid(int(sys.argv[1]))
s = socket.create_connection(("127.0.0.1", 15000), 5)
s.sendall("\r\n".join([f"{sys.argv[2]} {sys.argv[3]} HTTP/1.1", "Connection: close", *sys.argv[4:], "", ""]).encode())
data = b""
while chunk := s.recv(65536):
    data += chunk
print(data.split()[1].decode())
"""


def asked(node, uid, method, path, *headers):
    p = node_python(node, ASK, str(uid), method, path, *(headers or ("Host: localhost",)))
    assert p.returncode == 0, p.stderr
    return int(p.stdout)


def node_python(node, script, *argv):
    return subprocess.run(
        ["nsenter", f"--net=/run/netns/{node.netns}", "/usr/bin/python3", "-c", script, *argv],
        capture_output=True,
        text=True,
        timeout=30,
    )


def by_socket(node, method, path):
    r = subprocess.run(
        [
            "curl",
            "-s",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            method,
            "--unix-socket",
            f"{node.run_dir}/proxy.sock",
            f"http://x{path}",
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return int(r.stdout)


def admin_refusals(node):
    found = re.search(r"^bruma_admin_requests_refused_total (\d+)$", node.metrics(), re.M)
    return int(found.group(1)) if found else 0


def test_on_a_single_machine_the_socket_alone_takes_commands(mesh):
    node = mesh.nodes[0]
    before = admin_refusals(node)
    for uid in (0, NOBODY):
        assert asked(node, uid, "POST", "/quitquitquit") == 403
        assert asked(node, uid, "POST", "/logging?level=debug") == 403
    assert asked(node, 0, "GET", "/config_dump") == 200 and asked(node, NOBODY, "GET", "/config_dump") == 403
    assert asked(node, NOBODY, "GET", "/") == 200
    assert by_socket(node, "POST", "/logging") == 200 and by_socket(node, "GET", "/config_dump") == 200
    assert node.proxy.alive() and "reason=admin_refused" in node.proxy.text()
    assert admin_refusals(node) == before + 5
    for _ in range(30):
        asked(node, NOBODY, "POST", "/quitquitquit")
    assert admin_refusals(node) == before + 35
    assert len(re.findall("reason=admin_refused", node.proxy.text())) < 10, (
        "who asks again and again does not fill the log"
    )


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: evil.example",),
        ("Host: localhost", "Origin: http://evil.example"),
        ("Host: localhost", "Sec-Fetch-Site: cross-site"),
        ("Host: localhost", "Host: evil.example"),
        ("Accept: */*",),
    ],
)
def test_a_web_page_gets_nothing_from_the_admin_pages(mesh, headers):
    node = mesh.nodes[0]
    for method, path in (("GET", "/config_dump"), ("POST", "/logging"), ("POST", "/quitquitquit")):
        assert asked(node, 0, method, path, *headers) in (403, 400)  # 400: not one Host header
    assert node.proxy.alive()


def test_in_a_cluster_root_may_command_and_everybody_may_read():
    """Port forwarding of a cluster comes as root, and its tools read the dump and set levels."""
    with Mesh(nodes=1, proxy_env={"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) as m:
        m.start()
        node = m.nodes[0]
        assert asked(node, NOBODY, "GET", "/config_dump") == 200
        assert (
            asked(node, NOBODY, "POST", "/logging?level=debug") == 403
            and asked(node, NOBODY, "POST", "/quitquitquit") == 403
        )
        assert asked(node, 0, "POST", "/logging?level=info") == 200
        assert asked(node, 0, "POST", "/logging", "Host: evil.example") == 403
        assert node.proxy.alive()
        assert asked(node, 0, "POST", "/quitquitquit") == 200
        wait_for(lambda: not node.proxy.alive(), "the proxy to end")
