# SPDX-License-Identifier: Apache-2.0
"""Addresses that a pod's network has not named, as there are where something else gives pods more of them: a
second network, a virtual address that moves from machine to machine, one on lo for answers that go straight
back, a prefix of which every address is local. What the pod's kernel has as local is the pod's, and under its
policies."""

import time

import pytest

from support.nodes.direct import WAYS
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ask
from support.system import sh, wait_for
from support.wire.segments import Wire

# What is given to the pod: (its address, IPv4 and IPv6, and by which device)
PLACES = {
    "another on its device": (["10.99.1.5", "fd99:1::5"], "eth0"),
    "a second network": (["10.99.2.5", "fd99:2::5"], "net1"),
    "on lo": (["10.99.3.5", "fd99:3::5"], "lo"),
    "in a local prefix": (["10.99.4.77", "fd99:4::77"], None),
}

each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
each_place = pytest.mark.parametrize("place", PLACES)


def give_addresses(pod, places=PLACES):
    """As somebody with rights in the pod does it, while the pod runs."""
    node = pod.node.netns
    sh("ip", "-n", pod.netns, "link", "add", "net1", "type", "veth", "peer", "name", "second", "netns", node)
    for address in ("10.99.2.1/24", "fd99:2::1/64"):
        sh("ip", "-n", node, "addr", "add", address, "dev", "second", *(["nodad"] if ":" in address else []))
    sh("ip", "-n", node, "link", "set", "second", "up")
    sh("ip", "-n", pod.netns, "link", "set", "net1", "up")
    for _name, (addresses, device) in places.items():
        for address, length, own in zip(
            addresses, (24, 64) if device == "net1" else (32, 128), (pod.ip, pod.ip6), strict=True
        ):
            v6 = ["-6"] if ":" in address else []
            if device:
                sh(
                    "ip",
                    "-n",
                    pod.netns,
                    "addr",
                    "add",
                    f"{address}/{length}",
                    "dev",
                    device,
                    *(["nodad"] if v6 else []),
                )
            else:
                prefix = "fd99:4::/64" if v6 else "10.99.4.0/24"
                sh("ip", "-n", pod.netns, *v6, "route", "add", "local", prefix, "dev", "lo")
            if device != "net1":
                sh("ip", "-n", node, *v6, "route", "add", address, "via", own)


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, agent_options=WAYS) as m:
        m.web, m.near = m.pod("web"), m.pod("near")
        m.shop = m.pod("shop", node=1)
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        # A service by the address that web has on lo, as where answers go straight back, and which shop
        # serves too.
        m.services.append(
            {
                "name": "direct",
                "namespace": "demo",
                "hostname": "direct.demo.svc.cluster.local",
                "vips": [f"/{a}" for a in PLACES["on lo"][0]],
                "ports": {8080: 8080},
            }
        )
        m.shop.services = {"demo/direct.demo.svc.cluster.local": {8080: 8080}}
        m.start()
        m.server = m.web.server(ECHO, "8080")
        m.shop.server(ECHO, "8080")
        give_addresses(m.web)
        yield m


def seen(mesh, skip):
    return [line.split()[1] for line in mesh.server.text()[skip:].splitlines() if line.startswith("FROM")]


def plain(address):
    return address.removeprefix("::ffff:")


@each_family
@each_place
def test_from_outside(mesh, place, family):
    """The application is reached and sees its client, as without the mesh, and the proxy has looked at it."""
    to, before = PLACES[place][0][family], len(mesh.server.text())
    lines = len(mesh.nodes[0].access_log())
    assert ask(mesh.outside, to) == f"hello {to}"
    assert [plain(a) for a in seen(mesh, before)] == [[mesh.outside.ip, mesh.outside.ip6][family]]
    log = wait_for(
        lambda: [x for x in mesh.nodes[0].access_log()[lines:] if to in x and 'direction="inbound"' in x],
        "its line",
    )
    assert 'dst.workload="web"' in log[0] and "error" not in log[0], log


@each_family
@each_place
def test_from_the_pod_itself(mesh, place, family):
    """Also where the mesh knows the address as that of a service that others serve."""
    to, before = PLACES[place][0][family], len(mesh.server.text())
    assert ask(mesh.web, to) == f"hello {to}"
    assert len(seen(mesh, before)) == 1, "by this pod, and once"
    if place != "in a local prefix":  # from which nobody may bind an IPv6 address
        assert ask(mesh.web, to, source=to) == f"hello {to}"
        assert len(seen(mesh, before)) == 2


@each_family
@each_place
def test_from_a_pod_of_the_mesh(mesh, place, family):
    """Which does not know whose the address is, so it comes in plaintext. On lo it is a service's: shop
    answers."""
    to, before = PLACES[place][0][family], len(mesh.server.text())
    assert ask(mesh.near, to) == f"hello {to}"
    assert len(seen(mesh, before)) == (place != "on lo")


@each_family
@each_place
def test_by_a_tunnel(mesh, place, family):
    """Where the mesh knows that it is this pod's, it is reached by the pod's identity."""
    if place == "on lo":
        pytest.skip("that is the service's in this mesh")
    to = PLACES[place][0][family]
    mesh.web.more = {"workloadIps": [mesh.web.ip, mesh.web.ip6, to]}
    mesh.write()
    try:

        def tunnelled():
            before, lines = len(mesh.server.text()), len(mesh.nodes[0].access_log())
            assert ask(mesh.near, to) == f"hello {to}"
            log = wait_for(
                lambda: [
                    x for x in mesh.nodes[0].access_log()[lines:] if to in x and 'direction="inbound"' in x
                ],
                "a line",
            )
            assert [plain(a) for a in seen(mesh, before)] == [[mesh.near.ip, mesh.near.ip6][family]]
            return f'src.identity="{mesh.near.identity}"' in log[0]

        wait_for(tunnelled, "the address to be known as web's")
    finally:
        mesh.web.more = {}
        mesh.write()


@each_family
@each_place
def test_closed_port(mesh, place, family):
    to = PLACES[place][0][family]
    assert ask(mesh.outside, to, port=4444) in ("ECONNRESET", "ECONNREFUSED")
    started = time.monotonic()
    assert ask(mesh.web, to, port=4444) in ("ECONNRESET", "ECONNREFUSED")
    assert time.monotonic() - started < 4, "refused, not timed out"


@each_family
@each_place
def test_policies_hold_there(mesh, place, family):
    """One that wants an identity keeps strangers out of all addresses: out of the first one in the handshake, as the kernel knows
    it, and the proxy decides about the others. The pod itself is let alone, as with its first address."""
    to = PLACES[place][0][family]
    mesh.deny_strangers()
    mesh.write()
    try:
        wait_for(lambda: ask(mesh.outside, mesh.web.ip) == "ECONNREFUSED", "the policy")
        lines = len(mesh.nodes[0].access_log())
        assert ask(mesh.outside, to) == "ECONNRESET"
        wait_for(
            lambda: [x for x in mesh.nodes[0].access_log("")[lines:] if to in x and "policy_denied" in x],
            "the reason",
        )
        assert ask(mesh.web, to) == f"hello {to}"
    finally:
        mesh.policies.clear()
        mesh.write()
        wait_for(lambda: ask(mesh.outside, mesh.web.ip).startswith("hello"), "the policy to be gone")


def by_tunnel(mesh, client, to):
    lines = len(mesh.nodes[0].access_log())
    return ask(client, to).startswith("hello") and [
        x for x in mesh.nodes[0].access_log()[lines:] if f"dst.addr={endpoint(to, 15008)}" in x
    ]


def endpoint(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@each_family
def test_an_address_that_moves_away(mesh, family):
    """Once it is another pod's, the first one's connections go there by the mesh, and not in plaintext past
    it."""
    to = ["10.99.5.5", "fd99:5::5"][family]
    v6, length = (["-6"], 128) if family else ([], 32)
    if not mesh.near.processes:
        mesh.near.server(ECHO, "8080")
    node = mesh.nodes[0]
    for pod, other in ((mesh.web, mesh.near), (mesh.near, mesh.web)):
        own = [pod.ip, pod.ip6][family]
        sh(
            "ip",
            "-n",
            pod.netns,
            "addr",
            "add",
            f"{to}/{length}",
            "dev",
            "eth0",
            *(["nodad"] if family else []),
        )
        sh("ip", "-n", node.netns, *v6, "route", "replace", to, "via", own)
        pod.more = {"workloadIps": [pod.ip, pod.ip6, to]}
        mesh.write()
        with Wire(node) as wire:
            wait_for(
                lambda: ask(pod, to, word="my own address") == f"my own address {to}",
                "it to be seen that it is its own",
            )
            wait_for(lambda: by_tunnel(mesh, other, to), "the other pod to get there by a tunnel")
            wire.forget()
            assert ask(other, to, word="by a tunnel alone") == f"by a tunnel alone {to}"
            assert not wire.holds(b"by a tunnel alone")
        pod.more = {}
        sh("ip", "-n", pod.netns, "addr", "del", f"{to}/{length}", "dev", "eth0")
    mesh.write()
    sh("ip", "-n", node.netns, *v6, "route", "del", to)
