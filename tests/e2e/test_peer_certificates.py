# SPDX-License-Identifier: Apache-2.0
"""Certificates of peers: what their end does to tunnels that live, and whom a certificate is good against."""

import socket
import tempfile
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from support.certificates import Authority, key_pem, pem
from support.network import inside
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.system import wait_for
from support.xds.plane import Plane

LIFE = 6  # seconds


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def certificate(mesh, identity, ends=3600, between=None, usage=None):
    """Of the mesh's CA, or of a CA below it that ends so many seconds from now: paths of certificate, key and
    root."""
    root = f"{mesh.nodes[0].run_dir}/control/root-cert.pem"
    ca, chain = Authority.load(root, mesh.ca_key), b""
    key = ec.generate_private_key(ec.SECP256R1())
    if between:
        ca = ca.subordinate(ends=between)
        chain = pem(ca.cert)
    cert = ca.sign(key.public_key(), [x509.UniformResourceIdentifier(identity)], ends=ends, usage=usage)
    folder = tempfile.mkdtemp(dir=mesh.dir)
    with open(f"{folder}/cert.pem", "wb") as f:
        f.write(pem(cert) + chain)
    with open(f"{folder}/key.pem", "wb") as f:
        f.write(key_pem(key))
    return f"{folder}/cert.pem", f"{folder}/key.pem", root


def dial(mesh, files):
    with inside(mesh.nodes[0].netns):
        return hbone.Client((mesh.shop.ip, 15008), *files)


def echo(mesh, c):
    sid = c.connect(f"{mesh.shop.ip}:8080")
    assert c.status(sid) == 200
    c.send(sid, b"before")
    assert c.pump(lambda: c.received(sid) == b"before")
    return sid


def served(mesh, files):
    try:
        c = dial(mesh, files)
        status = c.status(c.connect(f"{mesh.shop.ip}:8080"), seconds=5)
        c.close()
        return status == 200
    except OSError:
        return False


@pytest.mark.parametrize("what", ["the leaf", "what it stands on"])
def test_a_peer_whose_certificate_ends_opens_nothing_more(mesh, what):
    end = time.time() + LIFE
    files = certificate(
        mesh, mesh.web.identity, **({"ends": LIFE} if what == "the leaf" else {"between": LIFE})
    )
    c = dial(mesh, files)
    sid = echo(mesh, c)
    assert not c.goaways
    assert c.pump(lambda: c.goaways, seconds=LIFE + 5), "GOAWAY at the end of the certificate"
    assert abs(time.time() - end) < 3
    assert c.goaways[-1][1] == sid, "the last stream is the one that is open"
    c.send(sid, b" and after")
    assert c.pump(lambda: c.received(sid) == b"before and after"), "what is open goes on"
    late = c.connect(f"{mesh.shop.ip}:8080")
    assert c.status(late, seconds=2) is None or isinstance(c.status(late, seconds=1), tuple), (
        "no answer, or a reset"
    )
    c.send(sid, b"", end=True)
    c.pump(lambda: c.closed)
    assert c.closed, "nothing keeps the tunnel open"
    c.close()
    assert not served(mesh, files), "nor is it taken again"


def test_a_server_whose_certificate_ends_gets_nothing_more_on_that_tunnel(mesh):
    peer = mesh.pod("peer", node=1)
    mesh.write()
    with inside(peer.netns):
        listener = socket.create_server((peer.ip, 15008), backlog=64)
    mesh.extra.append(
        {
            "uid": "Kubernetes//Pod/demo/peer-hbone",
            "name": "peer-hbone",
            "namespace": "demo",
            "serviceAccount": "peer",
            "workloadIps": [peer.ip],
            "protocol": "HBONE",
            "node": "elsewhere",
            "services": {},
        }
    )
    peer.outside = True
    mesh.write()
    wait_for(
        lambda: any(w["name"] == "peer-hbone" for w in mesh.nodes[0].config_dump()["workloads"]), "the peer"
    )
    server = hbone.Server(listener, *certificate(mesh, peer.identity, ends=LIFE))
    try:
        end = time.time() + LIFE
        for _ in range(2):
            assert mesh.web.python(ONE_SHOT, peer.ip, 7000, "early") == "early"
        assert len(server.connections) == 1
        server.tls_context = hbone.context(True, *certificate(mesh, peer.identity))
        time.sleep(max(0, end - time.time()) + 0.2)
        assert mesh.web.python(ONE_SHOT, peer.ip, 7000, "late") == "late"
        assert len(server.connections) == 2, "not on the tunnel whose server has expired"
        wait_for(lambda: server.connections[0].closed, "the end of the first tunnel, which is not in use")
    finally:
        server.stop()


@pytest.mark.parametrize("usage", ["server", "client"])
def test_a_certificate_is_good_for_its_own_role(mesh, usage):
    """One that says it is for servers is refused as a client's. (The memory of those that were met is in
    tls_test.c.)"""
    oid = ExtendedKeyUsageOID.SERVER_AUTH if usage == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    assert served(mesh, certificate(mesh, mesh.web.identity, usage=[oid])) == (usage == "client")


@pytest.mark.parametrize("control_plane", ["of another root", "of the subordinate"])
def test_an_anchor_that_is_not_self_signed(control_plane):
    """What the mesh trusts is a subordinate CA, whose own issuer (a company's root) nobody in the mesh has:
    the CA's answers end with its certificate, and so does the file of roots."""
    with Mesh(nodes=1) as m:
        node, ca = m.nodes[0], Authority("company root").subordinate()
        plane = Plane(
            f"{m.dir}/plane", node.netns, authority=ca if control_plane == "of the subordinate" else None
        )
        plane.answer_certificate = lambda identity, csr: [
            pem(ca.sign(csr.public_key(), [x509.UniformResourceIdentifier(identity)])),
            pem(ca.cert),
        ]
        m.proxy_env.update(plane.env())
        try:
            web, shop = m.pod("web"), m.pod("shop")
            plane.set(plane.of(web), plane.of(shop))
            m.start()
            shop.server(ECHO, "8080")
            assert web.python(ONE_SHOT, shop.ip, 8080, "hello") == "hello", node.proxy.text()[-700:]
            wait_for(
                lambda: [x for x in node.access_log() if shop.identity in x], "both identities in the log"
            )
        finally:
            plane.stop()
