# SPDX-License-Identifier: Apache-2.0
"""Pods with sidecars beside pods of the mesh: a stock Envoy in the shape of a sidecar's bootstrap, with tunnels
(label networking.istio.io/tunnel=http) and without."""

import re

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.proxies.sidecar import Sidecar
from support.system import wait_for

CART, VIP = "cart.demo.svc.cluster.local", "10.96.0.30"
STRICT = "istio_converted_static_strict"

# Says something and waits for the answer: Envoy, which looks for TLS first, drops who ends its side at once.
SAY = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"hello")
d = b""
while len(d) < 5:
    c = s.recv(5 - len(d))
    if not c:
        break
    d += c
print(d.decode(), end="")
"""

# A connection with an echo, again and again until the file is there: how many were good, and what else there was.
AGAIN = """
import os, socket, sys, time
good, bad = 0, []
while not os.path.exists(sys.argv[2]):
    try:
        s = socket.create_connection((sys.argv[1], 80), timeout=10)
        s.sendall(b"x")
        if s.recv(1) == b"x":
            good += 1
        else:
            bad.append("closed")
        s.close()
    except OSError as e:
        bad.append(type(e).__name__)
    time.sleep(0.01)
print(good, bad, flush=True)
"""


@pytest.fixture(scope="module")
def mesh(program):
    """web and shop are of the mesh. cart has a sidecar with tunnels, old and closed one without; closed is STRICT."""
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.cart, m.old, m.closed = (m.pod(n, node=1) for n in ("cart", "old", "closed"))
        for pod in (m.cart, m.old, m.closed):
            pod.outside = True
        m.extra = [
            workload(m.cart, "HBONE", services={f"demo/{CART}": {80: 8080}}),
            workload(m.old, "TCP"),
            workload(m.closed, "TCP"),
        ]
        m.services = [
            {"name": "cart", "namespace": "demo", "hostname": CART, "vips": [f"/{VIP}"], "ports": {80: 8080}}
        ]
        m.start()
        for pod in (m.shop, m.cart, m.old, m.closed):
            pod.app = pod.server(ECHO, "8080")
        m.sidecars = []
        try:
            m.sidecar = Sidecar(m, m.cart, program, peers=m.shop.ips)
            m.sidecars.append(m.sidecar)
            m.sidecars.append(Sidecar(m, m.old, program, tunnel=False))
            m.sidecars.append(Sidecar(m, m.closed, program, tunnel=False, strict=True))
            yield m
        finally:
            for sidecar in m.sidecars:
                sidecar.stop()


def workload(pod, protocol, **fields):
    """As a control plane tells of a pod with a sidecar, which no plugin has enrolled."""
    return {
        "name": pod.name,
        "namespace": pod.namespace,
        "serviceAccount": pod.account,
        "workloadIps": [pod.ip, pod.ip6],
        "node": pod.node.name,
        "protocol": protocol,
        **fields,
    }


def ask(client, address):
    return client.run("/usr/bin/python3", "-c", SAY, address, check=False).stdout


def logged(node, *needles):
    """The line of the access log that has all of it."""

    def found():
        return [line for line in node.access_log("connection") if all(n in line for n in needles)]

    return wait_for(found, f"a line with {needles}")[-1]


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_mesh_calls_a_sidecar_through_its_tunnel(mesh, family):
    address = getattr(mesh.cart, family)
    before = len(mesh.sidecar.tunnels())
    assert ask(mesh.web, address) == "hello"
    line = wait_for(lambda: mesh.sidecar.tunnels()[before:], "the tunnel in the sidecar's log")[0]
    assert mesh.web.identity in line and line.endswith(" 200")
    line = logged(mesh.nodes[0], f'dst.identity="{mesh.cart.identity}"', address)
    assert f'src.identity="{mesh.web.identity}"' in line and ":15008" in line and "error" not in line


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_sidecar_calls_the_mesh_through_a_tunnel(mesh, family):
    address = getattr(mesh.shop, family)
    assert ask(mesh.cart, address) == "hello"
    line = logged(mesh.nodes[1], f'src.identity="{mesh.cart.identity}"', address)
    assert "dst.hbone_addr=" in line and f'dst.identity="{mesh.shop.identity}"' in line


def test_a_sidecar_without_tunnels_is_called_in_plaintext(mesh):
    assert ask(mesh.web, mesh.old.ip) == "hello"
    line = logged(mesh.nodes[0], f"dst.addr={mesh.old.ip}:8080")
    assert "identity" not in line and "error" not in line


def test_a_sidecar_without_tunnels_calls_in_plaintext(mesh):
    assert ask(mesh.old, mesh.shop.ip) == "hello"
    assert "src.identity" not in logged(mesh.nodes[1], f"src.addr={mesh.old.ip}:", 'direction="inbound"')


def test_a_strict_sidecar_without_tunnels_is_named(mesh):
    """It drops what comes in plaintext: that is a failure with a reason, and not the end of a connection."""
    before = mesh.nodes[0].failures("plaintext_reset")
    assert ask(mesh.web, mesh.closed.ip) == ""
    line = logged(mesh.nodes[0], f"dst.addr={mesh.closed.ip}:8080")
    assert "plaintext_reset" in line and "STRICT" in line
    assert mesh.nodes[0].failures("plaintext_reset") == before + 1


def test_strict_in_the_mesh_names_the_policy(mesh):
    """Tunnels of a sidecar are let in, and what comes in plaintext is refused by the policy's name."""
    mesh.deny([[{"notPrincipals": [{"Presence": []}]}]], name=STRICT)
    mesh.write()
    try:
        # one that is let in just before is cut, which has another reason
        wait_for(
            lambda: ask(mesh.old, mesh.shop.ip) == "" and mesh.nodes[1].failures("policy_denied"),
            "the refusal of plaintext",
        )
        assert f"demo/{STRICT}" in logged(mesh.nodes[1], f"src.addr={mesh.old.ip}:", "policy_denied")
        assert ask(mesh.cart, mesh.shop.ip) == "hello" and ask(mesh.web, mesh.cart.ip) == "hello"
    finally:
        mesh.policies.clear()
        mesh.write()
    wait_for(lambda: ask(mesh.old, mesh.shop.ip) == "hello", "plaintext to be let in again")


def test_a_service_moves_from_sidecars_into_the_mesh(mesh, tmp_path):
    """Its pods with sidecars are replaced by pods of the mesh, while it is called: no connection fails."""
    client = mesh.web.popen("/usr/bin/python3", "-u", "-c", AGAIN, VIP, str(tmp_path / "stop"))
    before = len(mesh.sidecar.tunnels())
    wait_for(lambda: len(mesh.sidecar.tunnels()) > before + 20, "calls through the sidecar")
    new = mesh.pod("cart-new", node=1, account="cart")
    new.services = {f"demo/{CART}": {80: 8080}}
    mesh.tell()
    new.enroll()
    new.app = new.server(ECHO, "8080")
    wait_for(lambda: len(re.findall("FROM", new.app.text())) > 20, "calls that the new pod serves")
    mesh.extra[:] = [w for w in mesh.extra if w["name"] != "cart"]
    mesh.write()
    seen = len(mesh.sidecar.tunnels())
    calls = len(re.findall("FROM", new.app.text()))
    wait_for(lambda: len(re.findall("FROM", new.app.text())) > calls + 100, "calls of the new pod alone")
    assert len(mesh.sidecar.tunnels()) < seen + 100, "the old one is called no more"
    mesh.sidecar.stop()
    calls = len(re.findall("FROM", new.app.text()))
    wait_for(lambda: len(re.findall("FROM", new.app.text())) > calls + 20, "calls without the old pod")
    (tmp_path / "stop").touch()
    wait_for(lambda: client.text().strip(), "the end of the calls")
    good, _, bad = client.text().strip().partition(" ")
    assert bad == "[]" and int(good) > 150
    assert f'dst.identity="{mesh.cart.identity}"' in logged(mesh.nodes[0], f"dst.addr={new.ip}:15008")
