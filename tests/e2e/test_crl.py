# SPDX-License-Identifier: Apache-2.0
"""Revoked certificates (contract section 7, CRL): refused from the moment the list is read, and cut where
they are connected."""

import os

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.revocation import Lists
from support.system import wait_for


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("crl") / "crl.pem")
    with Mesh(nodes=2, proxy_env={"CRL_PATH": path, "BRUMA_CRL_REQUIRED": "false"}) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        m.lists = Lists(m, path)
        yield m


def client(mesh, certificate):
    with inside(mesh.nodes[0].netns):
        return hbone.Client((mesh.shop.ip, 15008), *certificate)


def echo(mesh, c, text):
    sid = c.connect(f"{mesh.shop.ip}:8080")
    assert c.status(sid) == 200
    c.send(sid, text)
    assert c.pump(lambda: c.received(sid) == text)
    return sid


def metric(mesh):
    return [
        line
        for line in mesh.nodes[1].metrics().splitlines()
        if line.startswith("istio_crl_policy_rejections_total")
    ]


def test_without_a_file_nothing_is_revoked_where_that_is_configured_and_it_is_said(mesh):
    for node in mesh.nodes:
        assert (
            "no certificate counts as revoked" in node.proxy.text()
            and 'reason="crl_invalid"' in node.proxy.text()
        )
        assert "bruma_crl_unusable 1" in node.metrics()
    c = client(mesh, leaf(mesh, mesh.web.identity))
    echo(mesh, c, b"hello")
    c.close()
    assert metric(mesh) == []


def test_live_tunnel_of_a_revoked_peer_is_cut_and_others_live(mesh):
    bad, good = leaf(mesh, mesh.web.identity), leaf(mesh, mesh.web.identity)
    doomed, other = client(mesh, bad), client(mesh, good)
    echo(mesh, doomed, b"before")
    sid = echo(mesh, other, b"before")
    mesh.lists.revoke(bad[0])
    assert doomed.pump(lambda: doomed.closed, seconds=20) or doomed.closed
    other.send(sid, b" and after")
    assert other.pump(lambda: other.received(sid) == b"before and after")
    other.close()
    wait_for(
        lambda: any("certificate_revoked" in line for line in mesh.nodes[1].access_log("revoked after")),
        "a line of the access log about the cut",
    )
    assert 'reporter="destination"' in metric(mesh)[0]


def refused(mesh, certificate):
    try:
        c = client(mesh, certificate)
        sid = c.connect(f"{mesh.shop.ip}:8080")
        c.pump(lambda: c.closed or sid in c.events)
        gone = c.closed
        c.close()
        return gone
    except OSError:
        return True


def test_revoked_peer_is_refused_afterwards(mesh):
    bad = leaf(mesh, mesh.web.identity)
    mesh.lists.revoke(bad[0])
    wait_for(lambda: refused(mesh, bad), "the refusal of a revoked certificate")
    c = client(mesh, leaf(mesh, mesh.web.identity))
    echo(mesh, c, b"still fine")
    c.close()


def test_a_bad_file_keeps_the_last_lists(mesh):
    bad = leaf(mesh, mesh.web.identity)
    mesh.lists.revoke(bad[0])
    wait_for(lambda: refused(mesh, bad), "the refusal of a revoked certificate")
    with open(f"{mesh.lists.path}.new", "w") as f:
        f.write("-----BEGIN X509 CRL-----\nrubbish\n")
    os.rename(f"{mesh.lists.path}.new", mesh.lists.path)
    wait_for(lambda: 'reason="crl_invalid"' in mesh.nodes[1].proxy.text(), "the complaint about the file")
    assert refused(mesh, bad)
    good = client(mesh, leaf(mesh, mesh.web.identity))
    echo(mesh, good, b"hello")
    good.close()
    mesh.lists.write()


def test_a_file_that_vanishes_keeps_the_last_lists(mesh):
    bad = leaf(mesh, mesh.web.identity)
    mesh.lists.revoke(bad[0])
    wait_for(lambda: refused(mesh, bad), "the refusal of a revoked certificate")
    before = len(mesh.nodes[1].proxy.text())
    os.unlink(mesh.lists.path)
    wait_for(
        lambda: "the last ones stay in force" in mesh.nodes[1].proxy.text()[before:],
        "the complaint about the file",
    )
    assert refused(mesh, bad)
    assert "bruma_crl_unusable 1" in mesh.nodes[1].metrics()
    good = client(mesh, leaf(mesh, mesh.web.identity))
    echo(mesh, good, b"hello")
    good.close()
    mesh.lists.write()
    wait_for(lambda: "bruma_crl_unusable 0" in mesh.nodes[1].metrics(), "the file to be read again")


@pytest.mark.parametrize("at_first", ["no file", "a bad file"])
def test_without_lists_at_the_start_peers_are_refused_by_name_until_there_are_some(tmp_path, at_first):
    """As it is unless it is configured otherwise: whoever wants lists looked at does not want them
    forgotten."""
    path = str(tmp_path / "crl.pem")
    if at_first == "a bad file":
        with open(path, "w") as f:
            f.write("no list")
    with Mesh(nodes=1, proxy_env={"CRL_PATH": path}) as m:
        node = m.nodes[0]
        web, shop = m.pod("web"), m.pod("shop")
        m.write()
        node.start_agent()
        node.start_proxy(wait=False)
        wait_for(lambda: "proxy serves" in node.agent.text(), "the proxy to serve")
        web.enroll()
        shop.enroll()
        shop.server(ECHO, "8080")
        wait_for(
            lambda: node.http(15021, "/healthz/ready") == (500, "not ready, pending: revocation lists\n"),
            "it not to be ready",
        )
        ask = ("/usr/bin/python3", "-c", ONE_SHOT, shop.ip, "8080", "hello")
        assert web.run(*ask, check=False).stdout == ""
        wait_for(lambda: node.access_log("revocation_unknown"), "its name in the access log")
        Lists(m, path).write()
        wait_for(lambda: web.run(*ask, check=False).stdout == "hello", "traffic once there are lists")
        assert node.ready()


def test_traffic_between_pods_goes_on(mesh):
    """Both proxies hold lists and verify each other with them, without the cache of verified chains."""
    code = (
        "import socket, sys\ns = socket.create_connection((sys.argv[1], 8080), timeout=20)\ns.sendall(b'ping')\n"
        "print(s.recv(4).decode())\n"
    )
    assert mesh.web.python(code, mesh.shop.ip).strip() == "ping"
