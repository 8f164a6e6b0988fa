# SPDX-License-Identifier: Apache-2.0
"""Peers of the mesh, with good certificates, that want to harm a node's proxy or its other connections by
what they may send."""

import os
import re
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, SOURCE
from support.programs import BUILD
from support.proxies import hbone
from support.system import Process, wait_for

ATTACKER = os.path.abspath(os.path.join(BUILD, "tests", "e2e", "hostile-peer"))


# So many requests, a connection each and on two addresses in turn: how many were answered, how many not.
MANY = """
import socket, sys, time
good = bad = 0
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end or good + bad < 50:
    try:
        s = socket.create_connection((sys.argv[1 + (good + bad) % 2], 8080), timeout=5)
        s.sendall(b"x" * 3000)
        n = 0
        while n < 3000:
            d = s.recv(65536)
            if not d:
                raise OSError("end")
            n += len(d)
        s.close()
        good += 1
    except OSError:
        bad += 1
print(good, bad)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web, m.rogue = m.pod("web"), m.pod("rogue")
        m.shop, m.other = m.pod("shop", node=1), m.pod("other", node=1)
        m.policies.append(
            {
                "name": "no-rogue",
                "namespace": "demo",
                "scope": "Namespace",
                "action": "Deny",
                "dryRun": False,
                "rules": [[[{"principals": [{"Exact": m.rogue.identity.removeprefix("spiffe://")}]}]]],
            }
        )
        m.start()
        for pod in (m.shop, m.other):
            pod.server(ECHO, "8080")
        m.shop.server(SOURCE, "9090")
        m.rogues, m.webs = leaf(m, m.rogue.identity), leaf(m, m.web.identity)
        yield m


def attack(mesh, files, count, *options, at=None):
    address = at or (mesh.shop.ip, 15008)
    p = Process(
        [ATTACKER, *options, *address, *files, count],
        f"{mesh.dir}/attack-{time.monotonic_ns()}.log",
        netns=mesh.nodes[0].netns,
    )
    wait_for(lambda: "READY" in p.text() or not p.alive(), "the attacker")
    assert p.alive() or "READY" in p.text(), p.text()
    return p


@pytest.fixture(autouse=True)
def the_same_proxies_serve_on(mesh):
    yield
    for node in mesh.nodes:
        assert node.proxy.alive(), node.proxy.text()[-2000:]
        assert len(node.proxies) == 1
    good, bad = mesh.web.python(MANY, mesh.shop.ip, mesh.other.ip, 0.1).split()
    assert int(bad) == 0, (good, bad)


def test_key_updates_that_one_peer_asks_for_harm_no_other(mesh):
    """A hundred a second, of a peer that policy refuses everything."""
    p = attack(mesh, mesh.rogues, 100000, "-i", 10000, "-d", 700)
    try:
        good, bad = (int(n) for n in mesh.web.python(MANY, mesh.shop.ip, mesh.other.ip, 5).split())
        assert bad == 0 and good >= 50, (good, bad)
        assert p.alive() and "ENDED" not in p.text(), "with data between nobody minds"
    finally:
        p.kill()


def test_key_updates_without_data_between_end_the_tunnel_by_name(mesh):
    before = mesh.nodes[1].failures("key_update_flood")
    p = attack(mesh, mesh.rogues, 100000, "-d", 0)
    wait_for(lambda: not p.alive(), "the end of the attack", 60)
    ended = re.search(r"ENDED (\d+)", p.text())
    assert ended and int(ended.group(1)) < 100000, p.text()
    wait_for(lambda: mesh.nodes[1].failures("key_update_flood") == before + 1, "the count")
    wait_for(
        lambda: [x for x in mesh.nodes[1].proxy.text().splitlines() if "key_update_flood" in x],
        "the reason in the log",
    )


def test_who_asks_for_keys_and_does_not_read_is_read_no_more(mesh):
    """Its side of the connection fills up, and goes on once it reads. Nothing grows meanwhile."""
    before = mesh.nodes[1].proxy.resident_bytes()
    p = attack(mesh, mesh.webs, 60000, "-u", "-d", 700, "-c", f"{mesh.shop.ip}:9090")
    wait_for(lambda: "BLOCKED" in p.text() or not p.alive(), "it to be blocked", 60)
    grown = mesh.nodes[1].proxy.resident_bytes() - before
    assert "BLOCKED" in p.text(), (p.text(), grown)
    assert grown < 8 << 20, f"{grown} bytes more"
    p.kill()


def test_who_was_blocked_and_reads_goes_on(mesh):
    p = attack(mesh, mesh.webs, 20000, "-u", "-d", 700, "-c", f"{mesh.shop.ip}:9090")
    try:
        wait_for(lambda: "SENT 20000" in p.text() or not p.alive(), "all of it", 120)
        assert "SENT 20000" in p.text(), p.text()
        assert "BLOCKED" in p.text(), p.text()
    finally:
        p.kill()


def test_who_asks_the_control_plane_for_keys_and_does_not_read_is_read_no_more(mesh):
    """The agent's port on loopback is open to every user of the node."""
    agent = mesh.nodes[0].agent
    before = agent.resident_bytes()
    p = attack(mesh, mesh.webs, 250000, "-u", "-d", 700, at=("127.0.0.1", 15012))
    wait_for(lambda: "BLOCKED" in p.text() or not p.alive(), "it to be blocked", 120)
    grown = agent.resident_bytes() - before
    p.kill()
    assert "BLOCKED" in p.text(), (p.text(), grown)
    assert agent.alive() and grown < 8 << 20, f"{grown} bytes more"
    assert "agent" in mesh.nodes[0].ctl("status").stdout


def test_key_updates_to_the_control_plane_have_a_bound(mesh):
    p = attack(mesh, mesh.webs, 100000, at=("127.0.0.1", 15012))
    wait_for(lambda: not p.alive(), "the end of the attack", 60)
    assert "ENDED" in p.text(), p.text()
    assert "agent" in mesh.nodes[0].ctl("status").stdout


def test_certificate_with_two_identities(mesh):
    files = leaf(mesh, f"{mesh.web.identity},URI:{mesh.rogue.identity}")
    before = mesh.nodes[1].failures("peer_identity_ambiguous")
    assert "ALERT" in hbone.alert_of(mesh, hbone.context(False, *files))
    wait_for(lambda: mesh.nodes[1].failures("peer_identity_ambiguous") == before + 1, "the count")
    with inside(mesh.nodes[0].netns):
        c = hbone.Client((mesh.shop.ip, 15008), *mesh.webs)
    assert c.status(c.connect(f"{mesh.shop.ip}:8080")) == 200, "one of them alone is good"
    c.close()
