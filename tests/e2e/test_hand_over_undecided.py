# SPDX-License-Identifier: Apache-2.0
"""Connections that are accepted, and whose other end is not there yet when the next proxy takes over: it decides upon them, and
whoever has opened them only finds that it took a while."""

import contextlib
import os
import signal
import socket

import pytest

from support.faults import Faults
from support.network import inside
from support.nodes.direct import LONG
from support.nodes.hand_over import MIRROR, Talkers, handed_over, next_proxy, serving, upgrade
from support.nodes.mesh import Mesh, leaf
from support.programs import BUILD
from support.proxies.hbone import Client
from support.system import sh, wait_for
from support.xds.control_plane import AUTHORIZATION
from support.xds.site import Site

WAITING = {"BRUMA_POLICY_TIMEOUT": "60s", "BRUMA_CONNECT_TIMEOUT": "60s", "BRUMA_ANSWER_TIMEOUT": "60s"}


@pytest.fixture(scope="module")
def mesh():
    env = {"BRUMA_SAME_NODE": "relay", **WAITING}
    with Mesh(nodes=2, workers=2, proxy_env=env, agent_options=(*LONG, "--hand-over", "true")) as m:
        m.node = m.nodes[0]
        m.web, m.cart = m.pod("web"), m.pod("cart", node=1)
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.web, m.cart, m.outside):
            pod.server(MIRROR, "8080")
        yield m


# As MIRROR, but that nobody is accepted until the program is told to.
BUSY = MIRROR.replace("backlog=4096", "backlog=0").replace(
    'print("READY", flush=True)',
    """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ahead = [socket.socket() for _ in range(4)]
for a in ahead:
    a.setblocking(False)
    a.connect_ex(("127.0.0.1", int(sys.argv[1])))
print("READY", flush=True)
signal.sigwait([signal.SIGUSR1])
for a in ahead:
    a.close()
s.listen(4096)
""",
)


@contextlib.contextmanager
def silent(pod, towards):
    """Nothing that the pod says arrives there."""
    sh("ip", "-n", pod.netns, "route", "add", "blackhole", towards)
    try:
        yield
    finally:
        sh("ip", "-n", pod.netns, "route", "del", "blackhole", towards)


def all_move(node, count):
    moved, old = upgrade(node)
    assert moved["moved"] >= count and moved["left"] == 0, (moved, old.text()[-1500:])
    wait_for(lambda: not old.alive(), "the old one to end, which carries nothing any more")


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize("to", ["outside", "another node"])
def test_while_they_are_being_connected(mesh, to, family):
    server = mesh.outside if to == "outside" else mesh.cart
    with silent(server, mesh.web.ips[family]):
        talkers = Talkers(mesh.web, server.ips[family])
        for _ in range(2):
            all_move(mesh.node, 18)
    talkers.goes_on()
    all_move(mesh.node, 1)
    talkers.goes_on()
    talkers.end()


@pytest.mark.parametrize("family", [0, 1])
def test_while_their_request_is_not_answered(mesh, family):
    """The tunnel moves with what is open on it, and without them."""
    other = mesh.nodes[1].proxy
    open_ones = Talkers(mesh.web, mesh.cart.ips[family])
    open_ones.goes_on()
    os.kill(other.pid, signal.SIGSTOP)
    try:
        talkers = Talkers(mesh.web, mesh.cart.ips[family])
        all_move(mesh.node, 19)
    finally:
        os.kill(other.pid, signal.SIGCONT)
    for t in (open_ones, talkers):
        t.goes_on()
        t.end()


@pytest.mark.parametrize("family", [0, 1])
def test_of_peers_that_have_said_nothing(mesh, family):
    cert, key, root = leaf(mesh, mesh.cart.identity)
    with inside(mesh.cart.netns):
        sock = socket.create_connection((mesh.web.ips[family], 15008), timeout=20)
    for _ in range(2):
        all_move(mesh.node, 1)
    peer = Client(None, cert, key, root, sock=sock)
    address = mesh.web.ips[family]
    sid = peer.connect(f"[{address}]:8080" if family else f"{address}:8080")
    assert peer.status(sid) == 200
    peer.close()


@pytest.mark.parametrize("family", [0, 1])
def test_while_the_application_takes_nobody(mesh, family):
    """What comes to a pod, in plaintext and by another node's tunnel, which moves with requests that are not answered."""
    busy = mesh.pod(f"busy{family}")
    mesh.write()
    busy.enroll()
    busy.wait_enrolled()
    # Its service account is the mesh file's, which the agent may read after the call; a pod with another one begins anew.
    wait_for(lambda: busy.item()["identity"] == busy.identity, "the pod's identity")
    program = busy.server(BUSY, "8080")
    talkers = [Talkers(client, busy.ips[family]) for client in (mesh.outside, mesh.cart)]
    # Those that the first proxy has not accepted yet are in the listener's queue, which both share.
    for least in (1, 19):
        all_move(mesh.node, least)
    assert [t.say("look") for t in talkers] == [(0, 18, [])] * 2, "nobody has been accepted"
    os.kill(program.pid, signal.SIGUSR1)
    for t in talkers:
        t.goes_on()
    all_move(mesh.node, 19)
    for t in talkers:
        t.goes_on()
        t.end()


@pytest.mark.parametrize("steps", [0, 3, 11])
def test_the_old_one_decides_if_the_new_one_is_killed(mesh, tmp_path, steps):
    faults = Faults(BUILD, str(tmp_path / "faults"))
    with silent(mesh.outside, mesh.web.ip):
        talkers = Talkers(mesh.web, mesh.outside.ip)
        faults.fail("sendmsg of a worker", -signal.SIGKILL, skip=steps)
        old, text = next_proxy(mesh.node, wait=False, **faults.env)
        new = mesh.node.proxy
        wait_for(lambda: not new.alive(), "the one that is killed to end")
        mesh.node.proxy = old
        moved = handed_over(mesh.node, text)["moved"]
        faults.stop()
        assert moved < 18
    if moved:
        assert talkers.say("look")[1] >= 18 - moved
    else:
        talkers.goes_on()
    talkers.process.kill()
    wait_for(lambda: not mesh.web.run("ss", "-Htn", "dport", "=", "8080").stdout, "all of them to end")
    wait_for(lambda: serving(mesh.node), "the one that is left to serve")


WAYS = {"plaintext": (0, "relay"), "one node": (1, "relay"), "tunnel": (1, "hbone")}


@pytest.fixture(params=WAYS)
def site(request):
    """The shop names a policy that comes later."""
    protocol, same_node = WAYS[request.param]
    s = Site()
    s.mesh.agent_options = (*LONG, "--hand-over", "true")
    s.mesh.proxy_env |= {"BRUMA_SAME_NODE": same_node, **WAITING}
    s.plane.set(s.of(s.web), s.of(s.shop, authorization_policies=["demo/late"], tunnel_protocol=protocol))
    with s.mesh:
        s.mesh.start()
        s.shop.server(MIRROR, "8080")
        yield s


def policy_comes(site):
    m = site.plane.messages["istio.security.Authorization"](name="late", namespace="demo", scope=2, action=0)
    m.rules.add().clauses.add().matches.add().destination_ports.append(8080)
    site.plane.set(("demo/late", m), type_url=AUTHORIZATION)


@pytest.mark.parametrize("family", [0, 1])
def test_while_they_wait_for_a_policy(site, family):
    talkers = Talkers(site.web, site.shop.ips[family])
    for _ in range(2):
        all_move(site.node, 18)
    assert talkers.say("look") == (0, 18, []), "nobody has let them through"
    policy_comes(site)
    talkers.goes_on()
    all_move(site.node, 1)
    talkers.goes_on()
    talkers.end()
