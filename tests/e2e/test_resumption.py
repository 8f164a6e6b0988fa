# SPDX-License-Identifier: Apache-2.0
"""Two node proxies that resume TLS sessions with each other (docs/hbone.md, Resumption): what a resumed tunnel carries, and
what makes the next handshake a full one."""

import base64
import os

import pytest

from support.network import inside
from support.nodes.clock import HOUR, YEAR, MovableMesh, root, validity
from support.nodes.hand_over import Talkers, hand_over_mesh, upgrade
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.programs import BUILD
from support.proxies import hbone
from support.resumption import CLOSED_AT_ONCE, connect, handshakes, no_tunnel, refused, sessions
from support.revocation import Lists
from support.system import run, wait_for

HOSTILE = os.path.abspath(os.path.join(BUILD, "tests", "e2e", "hostile-resumption"))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("crl") / "crl.pem")
    env = {**CLOSED_AT_ONCE, "CRL_PATH": path, "BRUMA_CRL_REQUIRED": "false"}
    with Mesh(nodes=2, workers=2, proxy_env=env) as m:
        m.web, m.rogue, m.shop = m.pod("web"), m.pod("rogue"), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        m.lists = Lists(m, path)
        m.lists.write()
        wait_for(lambda: all("bruma_crl_lists 1" in n.metrics() for n in m.nodes), "the lists to be read")
        yield m


def resumes(client, server):
    """Whatever was before, the second of two handshakes is a resumed one."""
    connect(client, server)
    assert connect(client, server) == ("resumed", "hello")


def test_a_resumed_tunnel_has_the_identities_of_the_first(mesh):
    resumes(mesh.web, mesh.shop)
    for node, reporter in ((mesh.nodes[0], "source"), (mesh.nodes[1], "destination")):
        assert sessions(node, reporter) >= 1
    wait_for(lambda: len(mesh.nodes[1].access_log(f'src.identity="{mesh.web.identity}"')) >= 2, "its lines")
    (*_, first, second) = mesh.nodes[1].access_log(f'src.identity="{mesh.web.identity}"')
    for line in (first, second):
        assert f'dst.identity="{mesh.shop.identity}"' in line, line
    (*_, last) = mesh.nodes[0].access_log(f'dst.identity="{mesh.shop.identity}"')
    assert f'src.identity="{mesh.web.identity}"' in last


def test_policies_judge_a_resumed_peer_by_its_identity(mesh):
    resumes(mesh.rogue, mesh.shop)
    mesh.deny(mesh.rogue.rule(), name="no-rogue")
    mesh.write()
    try:
        wait_for(lambda: connect(mesh.rogue, mesh.shop)[1] == "", "the policy to count")
        assert connect(mesh.rogue, mesh.shop) == ("resumed", "")
        resumes(mesh.web, mesh.shop)
    finally:
        mesh.policies.clear()
        mesh.write()
    wait_for(lambda: connect(mesh.rogue, mesh.shop) == ("resumed", "hello"), "the policy to be gone")


def join(mesh, *pods):
    """New ones, as who they are."""
    mesh.write()
    for pod in pods:
        pod.enroll()
    wait_for(
        lambda: all(pod.identity in str(pod.item()) for pod in pods), "the agents to know their accounts"
    )


def test_who_is_somebody_else_begins_anew(mesh):
    resumes(mesh.web, mesh.shop)
    stranger = mesh.pod("stranger")
    join(mesh, stranger)
    try:
        assert connect(stranger, mesh.shop) == ("full", "hello")
        assert connect(stranger, mesh.shop) == ("resumed", "hello")
        wait_for(
            lambda: mesh.nodes[1].access_log(f'src.identity="{stranger.identity}"'),
            "its own identity in the log",
        )
    finally:
        stranger.remove()
        mesh.write()


def test_a_new_pod_of_the_same_account_goes_on_where_the_last_one_was(mesh):
    """As in a roll-out: at either end another pod, with another address."""
    resumes(mesh.web, mesh.shop)
    new = [mesh.pod("web2", account="web"), mesh.pod("shop2", node=1, account="shop")]
    join(mesh, *new)
    try:
        new[1].server(ECHO, "8080")
        wait_for(lambda: connect(mesh.web, new[1])[1] == "hello", "the new server to be known", 30)
        assert connect(new[0], new[1]) == ("resumed", "hello")
        assert connect(new[0], mesh.shop) == ("resumed", "hello")
    finally:
        for pod in new:
            pod.remove()
        mesh.write()


def test_new_revocation_lists_begin_anew_and_refuse_who_is_on_them(mesh):
    """The certificate is the one that web's proxy shows."""
    resumes(mesh.web, mesh.shop)
    before = refused(mesh.nodes[0], "source", "revocation_lists")
    read = [node.proxy.text().count("revocation lists read") for node in mesh.nodes]
    mesh.lists.write()
    wait_for(
        lambda: all(
            n.proxy.text().count("revocation lists read") > r for n, r in zip(mesh.nodes, read, strict=True)
        ),
        "the lists to be read again",
    )
    wait_for(lambda: connect(mesh.web, mesh.shop) == ("full", "hello"), "a full handshake")
    assert refused(mesh.nodes[0], "source", "revocation_lists") > before
    resumes(mesh.web, mesh.shop)
    resumes(mesh.rogue, mesh.shop)
    (chain,) = [
        c["certChain"]
        for c in mesh.nodes[0].config_dump()["certificates"]
        if c["identity"] == mesh.rogue.identity
    ]
    path = f"{mesh.dir}/rogue.pem"
    with open(path, "wb") as f:
        f.write(base64.b64decode(chain[0]["pem"]))
    failures = mesh.nodes[1].failures("certificate_revoked")
    mesh.lists.revoke(path)
    wait_for(lambda: attempt(mesh.rogue, mesh.shop) == "", "the revoked one to be refused", 30)
    wait_for(lambda: mesh.nodes[1].failures("certificate_revoked") > failures, "the reason")
    resumed = handshakes(mesh.nodes[1], "destination")[1]
    for _ in range(3):
        assert attempt(mesh.rogue, mesh.shop) == ""
    assert handshakes(mesh.nodes[1], "destination")[1] == resumed
    resumes(mesh.web, mesh.shop)


def attempt(client, server):
    """What is answered, whatever becomes of the handshake."""
    return client.run("/usr/bin/python3", "-c", ONE_SHOT, server.ip, "8080", "x", check=False).stdout.strip()


def test_a_proxy_that_has_forgotten_begins_anew(mesh):
    for node in mesh.nodes:
        resumes(mesh.web, mesh.shop)
        declined = refused(mesh.nodes[0], "source", "declined")
        node.proxy.kill()
        node.start_proxy()
        assert connect(mesh.web, mesh.shop) == ("full", "hello")
        if node is mesh.nodes[1]:
            assert refused(node, "destination", "unknown") == 1
            assert refused(mesh.nodes[0], "source", "declined") == declined + 1
        assert connect(mesh.web, mesh.shop) == ("resumed", "hello")


def test_a_stock_peer_leaves_nothing_behind(mesh):
    """A client that is not Bruma's, twice."""
    before = sessions(mesh.nodes[1], "destination")
    files = leaf(mesh, mesh.web.identity)
    for _ in range(2):
        with inside(mesh.nodes[0].netns):
            c = hbone.Client((mesh.shop.ip, 15008), *files)
        sid = c.connect(f"{mesh.shop.ip}:8080")
        assert c.status(sid) == 200
        c.close()
    assert sessions(mesh.nodes[1], "destination") == before


def test_who_replays_or_makes_up_a_session_gets_no_more_than_a_full_handshake(mesh):
    argv = [HOSTILE, mesh.shop.ip, "15008", *leaf(mesh, mesh.web.identity)]
    unknown = refused(mesh.nodes[1], "destination", "unknown")
    failures = mesh.nodes[1].failures("tls_handshake_failed")
    said = run(argv, netns=mesh.nodes[0].netns, timeout=120).stdout.splitlines()
    assert said == [
        "first full",
        "again resumed",
        "replayed full",
        "overheard refused",
        "after that full",
        "made up full",
        "early resumed",
        "early data rejected",
        "last resumed",
    ]
    wait_for(lambda: refused(mesh.nodes[1], "destination", "unknown") == unknown + 3, "their count")
    wait_for(lambda: mesh.nodes[1].failures("tls_handshake_failed") == failures + 1, "the reason")
    resumes(mesh.web, mesh.shop)


@pytest.mark.parametrize("side", [0, 1])
def test_switched_off_on_either_side_every_handshake_is_a_full_one(mesh, side):
    node = mesh.nodes[side]
    node.proxy.kill()
    node.start_proxy(BRUMA_RESUMABLE_SESSIONS="0")
    try:
        for _ in range(3):
            assert connect(mesh.web, mesh.shop) == ("full", "hello")
        assert sessions(node, ("source", "destination")[side]) == 0
    finally:
        node.proxy.kill()
        node.start_proxy()


def test_a_resumed_tunnel_moves_to_the_next_proxy_and_sessions_do_not():
    """Neither those of a client's proxy nor those of a server's."""
    next_page = {"port": 15030}
    env = {"BRUMA_METRICS_PORT": str(next_page["port"])}
    with hand_over_mesh(**CLOSED_AT_ONCE) as m:
        client, server = m.nodes
        resumes(m.web, m.cart)
        wait_for(lambda: no_tunnel(m.web), "the last tunnel to be closed")
        full, resumed = handshakes(server, "destination")
        talker = Talkers(m.web, m.cart.ip, 1)
        wait_for(lambda: handshakes(server, "destination") == (full, resumed + 1), "it to be a resumed one")
        assert sessions(client, "source") and sessions(server, "destination")

        moved, _ = upgrade(client, **env)
        assert (moved["moved"], moved["left"]) == (1, 0)
        assert sessions(client, "source", **next_page) == 0
        new = Talkers(m.web, m.cart.ip, 1)
        wait_for(lambda: handshakes(server, "destination") == (full + 1, resumed + 1), "a full one")
        assert handshakes(client, "source", **next_page) == (1, 0)

        moved, _ = upgrade(server, **env)
        assert (moved["moved"], moved["left"]) == (2, 0)
        assert sessions(server, "destination", **next_page) == 0
        for t in (talker, new):
            t.goes_on()
            t.end()
        wait_for(lambda: no_tunnel(m.web), "both to be closed")
        assert attempt(m.web, m.cart) == "x"
        assert handshakes(server, "destination", **next_page) == (1, 0)
        assert refused(server, "destination", "unknown", **next_page) == 1, "what its client has kept"


@pytest.fixture(scope="module")
def movable():
    with MovableMesh(proxy_env=CLOSED_AT_ONCE) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def certificates(mesh):
    return [validity(pod.node, pod.identity) for pod in (mesh.web, mesh.shop)]


def set_clocks(mesh, ahead, issued_anew):
    before, seen = certificates(mesh), [n.proxy.text().count("the wall clock was set") for n in mesh.nodes]
    mesh.set(ahead)
    wait_for(
        lambda: all(
            n.proxy.text().count("the wall clock was set") > s for n, s in zip(mesh.nodes, seen, strict=True)
        ),
        "the proxies to see it",
    )
    if issued_anew:
        wait_for(
            lambda: all(n and n != b for n, b in zip(certificates(mesh), before, strict=True)),
            "new certificates",
            60,
        )


@pytest.mark.parametrize(
    ("ahead", "issued_anew"),
    [(2 * HOUR, False), (13 * HOUR, True), (25 * HOUR, True), (20 * YEAR, True)],
    ids=["long ago", "issued anew", "expired", "another trust bundle"],
)
def test_certificates_that_end_or_change_begin_anew(movable, ahead, issued_anew):
    roots = [root(node) for node in movable.nodes]
    resumes(movable.web, movable.shop)
    aged = refused(movable.nodes[0], "source", "age")
    set_clocks(movable, ahead, issued_anew)
    if ahead >= YEAR:
        wait_for(lambda: connect(movable.web, movable.shop) == ("full", "hello"), "the new roots to be used")
        assert all(root(n) != r for n, r in zip(movable.nodes, roots, strict=True))
    else:
        assert connect(movable.web, movable.shop) == ("full", "hello")
    assert refused(movable.nodes[0], "source", "age") == aged + (0 if issued_anew else 1)
    assert connect(movable.web, movable.shop) == ("resumed", "hello")
    set_clocks(movable, 0, issued_anew)
    assert connect(movable.web, movable.shop) == ("full", "hello"), "what is of a later time"
