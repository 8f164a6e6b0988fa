# SPDX-License-Identifier: Apache-2.0
"""A pod that was told to end: its peers are asked to go elsewhere at once, and it is served until it is gone. Where the
API server tells the agent of it: test_kube_pod_ends.py."""

import re
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.nodes.peer_place import place_of_a_peer
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.system import wait_for

VIP = "10.96.0.60"
MEMBER = {"demo/cart.demo.svc.cluster.local": {7000: 7000}}
NO_STREAM_IS_REFUSED = (0, 2**31 - 1)

# Keeps a connection, and proves at each line on stdin that it is open still.
KEEP = """
import itertools, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
for line in itertools.chain(["first"], sys.stdin):
    s.sendall(b"k")
    print("kept" if s.recv(1) == b"k" else "cut", flush=True)
"""


class Kept:
    def __init__(self, pod, ip, port):
        self.process = pod.pipe("/usr/bin/python3", "-c", KEEP, ip, str(port), stdin=-1, stdout=-1, text=True)
        assert self.process.stdout.readline() == "kept\n"

    def is_open(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "kept\n"

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def mesh():
    with Mesh(nodes=2, workers=2, proxy_env={"BRUMA_EJECTION_TIME": "20s"}) as m:
        m.services.append(
            {
                "name": "cart",
                "namespace": "demo",
                "hostname": "cart.demo.svc.cluster.local",
                "vips": [f"/{VIP}"],
                "ports": {7000: 7000},
            }
        )
        m.web = m.pod("web")
        m.carts = [m.pod(f"cart-{i}", node=1, account="cart") for i in range(2)]
        for pod in m.carts:
            pod.services = MEMBER
        m.start()
        for pod in m.carts:
            pod.echo = pod.server(ECHO, 7000)
        m.certificate = leaf(m, m.web.identity)
        yield m


def tunnel(mesh, pod):
    with inside(mesh.nodes[0].netns):
        return hbone.Client((pod.ip, 15008), *mesh.certificate)


def is_served(client, pod):
    sid = client.connect(f"{pod.ip}:7000")
    assert client.status(sid) == 200
    goes_on(client, sid)
    return sid


def goes_on(client, sid):
    before = len(client.received(sid))
    client.send(sid, b"x")
    assert client.pump(lambda: len(client.received(sid)) > before)


def end(pod):
    assert pod.node.ctl("end", pod.full_name).stdout == ""


def test_its_peers_are_told_and_served(mesh):
    cart, node = mesh.carts[0], mesh.nodes[1]
    told, late = tunnel(mesh, cart), tunnel(mesh, cart)
    sid, early = is_served(told, cart), is_served(late, cart)
    end(cart)
    assert told.pump(lambda: len(told.goaways) == 2, seconds=2), "at once"
    assert told.goaways == [NO_STREAM_IS_REFUSED, (0, sid)]
    goes_on(told, sid)
    # This one has not heard of it yet: it has read nothing since.
    second = is_served(late, cart)
    assert late.pump(lambda: len(late.goaways) == 2) and late.goaways[-1] == (0, second)
    goes_on(late, early)
    # And a peer that has nowhere else to go, which is told a moment later.
    for _ in range(2):
        new = tunnel(mesh, cart)
        began, sid = time.monotonic(), is_served(new, cart)
        assert new.pump(lambda new=new: len(new.goaways) == 2, seconds=5)
        assert time.monotonic() - began < 3 and new.goaways == [NO_STREAM_IS_REFUSED, (0, sid)]
        goes_on(new, sid)
    assert cart.item()["state"] == "enrolled" and cart.item()["endingAt"] > time.time() - 60
    assert re.search(r"cart-0 +ending +serving", node.ctl("pods").stdout)
    assert "told to end" in node.ctl("explain", cart.full_name).stdout
    assert mesh.carts[1].item()["endingAt"] == 0
    other = tunnel(mesh, mesh.carts[1])
    is_served(other, mesh.carts[1])
    assert not other.pump(lambda: other.goaways, seconds=2), "another pod's peers are not told"
    assert cart.cni("DEL").returncode == 0
    assert told.pump(lambda: told.closed), "it is gone"
    for client in (told, late, new, other):
        client.close()


def test_its_own_connections_notice_nothing(mesh):
    cart = mesh.carts[0]
    with place_of_a_peer(mesh) as (pod, listener, cert):
        server = hbone.Server(listener, *cert)
        kept = Kept(cart, pod.ip, 9999)
        try:
            end(cart)
            inbound = tunnel(mesh, cart)
            is_served(inbound, cart)
            assert inbound.pump(lambda: len(inbound.goaways) == 2)
            assert kept.is_open()
            assert cart.python(ONE_SHOT, pod.ip, 9999, "new") == "new"
            assert kept.is_open()
            # Its workers' tunnels are shared by new connections still.
            for _ in range(8):
                assert cart.python(ONE_SHOT, pod.ip, 9999, "new") == "new"
            assert len(server.connections) <= mesh.workers
            inbound.close()
        finally:
            kept.close()
            server.stop()


def who_serves(mesh, count):
    """How many of so many new connections each has got."""
    before = [pod.echo.text().count("FROM ") for pod in mesh.carts]
    for _ in range(count):
        assert mesh.web.python(ONE_SHOT, VIP, 7000, "ping") == "ping"
    return [pod.echo.text().count("FROM ") - n for pod, n in zip(mesh.carts, before, strict=True)]


def leaving(mesh):
    found = re.search(r"bruma_endpoints_leaving_total (\d+)", mesh.nodes[0].metrics())
    return int(found[1]) if found else 0  # nothing is said of what never happened


def test_connections_to_its_service_go_to_others(mesh):
    wait_for(lambda: all(who_serves(mesh, 12)), "both serve", timeout=60)
    kept = [Kept(mesh.web, VIP, 7000) for _ in range(8)]
    end(mesh.carts[0])
    wait_for(lambda: leaving(mesh) >= 1, "the proxy of the client to hear of it")
    # A worker that had no tunnel to it hears of it with its first one.
    wait_for(lambda: not who_serves(mesh, 12)[0], "the other serves all of them", timeout=30)
    assert all(k.is_open() for k in kept), "what was open is served on"
    assert mesh.web.python(ONE_SHOT, mesh.carts[0].ip, 7000, "ping") == "ping", "and who asks for it alone"
    end(mesh.carts[1])
    wait_for(lambda: all(who_serves(mesh, 12)), "if all end, all serve", timeout=60)
    assert all(k.is_open() for k in kept)
    for k in kept:
        k.close()


def test_a_new_agent_and_a_new_proxy_know_it(mesh):
    cart, node = mesh.carts[0], mesh.nodes[1]
    end(cart)
    since = cart.item()["endingAt"]
    node.agent.stop()
    node.start_agent()
    cart.wait_enrolled()
    assert cart.item()["endingAt"] == since
    node.proxy.stop()
    node.start_proxy()
    client = tunnel(mesh, cart)
    sid = is_served(client, cart)
    assert client.pump(lambda: len(client.goaways) == 2, seconds=5), "the new proxy was told"
    goes_on(client, sid)
    client.close()


def test_what_brumactl_end_refuses(mesh):
    for argv, code, text in (
        (("end",), 2, "NAMESPACE/POD"),
        (("end", "cart-0"), 2, "NAMESPACE/POD"),
        (("end", "demo/nobody"), 1, "no pod of the mesh has that name here"),
        (("end", "demo/web"), 1, "no pod of the mesh has that name here"),
    ):
        r = mesh.nodes[1].ctl(*argv, check=False)
        assert r.returncode == code and text in r.stderr, (argv, r)
