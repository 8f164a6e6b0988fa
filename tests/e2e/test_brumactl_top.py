# SPDX-License-Identifier: Apache-2.0
"""brumactl top: what it says of a traffic that the test makes itself."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from support.kube.forwarder import Forwarder
from support.kube.operator import ctl
from support.nodes.mesh import Mesh
from support.programs import program
from support.system import wait_for

SERVER = r"""
import socketserver, threading
class H(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data[:1])
class S(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
s = S(("", 8080), H)
print("READY", flush=True)
s.serve_forever()
"""
# So many connections a second with so many bytes each, and one that stays.
CLIENT = r"""
import socket, sys, time
keep = socket.create_connection((sys.argv[1], 8080), 20); keep.sendall(b"x"); keep.recv(1)
print("OPEN", flush=True)
at = time.monotonic()
while True:
    try:
        with socket.create_connection((sys.argv[1], 8080), 20) as s:
            s.sendall(b"x" * 10000); s.recv(1)
    except OSError:
        pass
    at += 0.05
    time.sleep(max(0, at - time.monotonic()))
"""

# Tries, whatever comes of it.
AGAIN = """
import socket, time
for _ in range(600):
    try:
        with socket.create_connection(("IP", 8080), 5) as s:
            s.sendall(b"x"); s.recv(1)
    except OSError:
        pass
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=("--ready-port", "8000")) as m:
        m.web, m.shop, m.idle = m.pod("web", node=0), m.pod("shop", node=1), m.pod("idle", node=1)
        m.start()
        m.shop.server(SERVER, "8080")
        p = m.web.popen("/usr/bin/python3", "-u", "-c", CLIENT, m.shop.ip)
        wait_for(lambda: "OPEN" in p.text(), "the traffic")
        yield m
        p.kill()


@pytest.fixture
def api(mesh, tmp_path):
    with Forwarder(tmp_path / "api", mesh.nodes) as a:
        yield a


def top(api, *options):
    r = ctl("top", "-o", "json", *options, kubeconfig=api.kubeconfig(), check=0)
    found = json.loads(r.stdout)
    return found, {row["name"]: row for row in found["rows"]}


def test_who_uses_the_mesh_and_how_much(mesh, api):
    found, rows = top(api, "--interval", "4")
    assert found["by"] == "workload"
    web, shop = rows["demo/web"], rows["demo/shop"]
    for row in (web, shop):
        assert 10 < row["openedPerSecond"] < 25 and 1 <= row["open"] <= 3 and row["nodes"] == 1, row
        assert row["failedPerSecond"] == 0
    assert 100_000 < web["outBytesPerSecond"] < 250_000 and web["inBytesPerSecond"] < 1000
    assert 100_000 < shop["inBytesPerSecond"] < 250_000 and shop["outBytesPerSecond"] < 1000
    nodes = {n["node"]: n for n in found["nodes"]}
    for name in ("node1", "node2"):
        assert 0 < nodes[name]["processors"] < 2 and nodes[name]["memoryBytes"] > 1e6, nodes
        assert 3 < nodes[name]["seconds"] < 10 and 1 <= nodes[name]["open"] <= 3


def test_by_namespace_and_of_one(mesh, api):
    _, rows = top(api, "--by", "namespace", "--interval", "1")
    assert set(rows) == {"demo"} and rows["demo"]["nodes"] == 2
    assert 1.5 < rows["demo"]["openedPerSecond"] / 20 < 2.5  # both ends
    assert top(api, "-n", "elsewhere", "--interval", "1")[1] == {}
    assert len(top(api, "--count", "1", "--interval", "1")[1]) == 1


def test_by_service(mesh, api):
    ip, host = "10.255.9.1", "cart.demo.svc.cluster.local"
    mesh.services.append(
        {"name": "cart", "namespace": "demo", "hostname": host, "vips": ["/" + ip], "ports": {8080: 8080}}
    )
    mesh.shop.services = {f"demo/{host}": {8080: 8080}}
    mesh.write()
    p = mesh.web.popen("/usr/bin/python3", "-c", AGAIN.replace("IP", ip))

    def seen():
        rows = top(api, "--by", "service", "--interval", "1")[1]
        return [r for name, r in rows.items() if name.startswith("cart.") and r["openedPerSecond"] > 3]

    assert wait_for(seen, "the service to be told", interval=0.1)[0]["nodes"] == 1
    p.kill()


def test_what_is_refused(mesh, api):
    mesh.deny(mesh.web.rule())
    mesh.write()
    try:

        def refused():
            rows = top(api, "--sort", "failed", "--interval", "1")
            first = rows[0]["rows"][0]
            return first["failedPerSecond"] > 1 and rows[0]["nodes"][1]["failuresPerSecond"] > 1

        mesh.web.popen("/usr/bin/python3", "-c", AGAIN.replace("IP", mesh.shop.ip))
        wait_for(refused, "the refusals to be told", 30)
    finally:
        mesh.policies.clear()
        mesh.write()


def test_a_node_that_does_not_answer_is_a_line(mesh, api):
    api.faults["proxy-node1"] = "refuse"
    r = ctl("top", "--once", "--interval", "1", kubeconfig=api.kubeconfig(), check=0)
    lines = r.stdout.splitlines()
    assert lines[0].split() == ["NODE", "CPU", "MEMORY", "OPEN", "FAILURES/s", "NOTE"]
    assert lines[1].startswith("node1 ") and "cannot create resource" in lines[1]
    assert re.match(r"node2 +\d+\.\d% +[\d.]+ MiB +\d+ +\S+ +-$", lines[2]), lines[2]
    assert re.search(r"^demo/shop +\d+ +\d+(\.\d)? +0 +[\d.]+ KiB +", r.stdout, re.M), r.stdout
    found, rows = top(api, "--interval", "1")
    assert "error" in found["nodes"][0] and set(rows) >= {"demo/shop"} and "demo/web" not in rows
    api.faults["proxy-node2"] = "cut"
    assert "node2" in ctl("top", "--once", kubeconfig=api.kubeconfig(), check=3).stderr


def test_metrics_that_are_none(mesh, api):
    api.faults["proxy-node1"] = b'istio_tcp_sent_bytes_total{reporter="source 5\n\xff{}{{\n' * 1000
    found, rows = top(api, "--interval", "1")
    assert found["nodes"][0]["open"] == 0 and "demo/shop" in rows


def test_of_this_machine(mesh):
    r = ctl("top", "--interval", "1", "--once", "--run-dir", mesh.nodes[0].run_dir, check=0)
    assert r.stdout.startswith("CPU ") and "demo/web" in r.stdout
    assert "no answer of the proxy" in ctl("top", "--once", "--run-dir", "/nowhere", check=3).stderr


def test_on_a_terminal_it_goes_on_until_it_is_interrupted(mesh):
    main, terminal = pty.openpty()
    argv = [program("brumactl"), "top", "--interval", "1", "--run-dir", mesh.nodes[0].run_dir]
    p = subprocess.Popen(argv, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    text, deadline = b"", time.monotonic() + 20
    try:
        while text.count(b"\x1b[2J") < 3 and time.monotonic() < deadline:
            if select.select([main], [], [], 1)[0]:
                text += os.read(main, 65536)
        assert text.count(b"\x1b[2J") >= 3 and b"demo/web" in text, text
        p.send_signal(signal.SIGINT)
        assert p.wait(10) == 0
    finally:
        p.kill()
        p.wait()
        os.close(main)


def test_bad_options(mesh):
    for option, words in (
        (("--by", "pod"), "there are workload, namespace and service"),
        (("--sort", "x"), "there are bytes"),
        (("--count", "0"), "is no number from 1"),
        (("--interval", "1s"), "is no number of seconds"),
    ):
        assert words in ctl("top", *option, check=2).stderr
