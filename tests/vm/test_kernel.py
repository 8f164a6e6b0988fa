# SPDX-License-Identifier: Apache-2.0
"""What a kernel has to take: all programs, each of the ways that a connection may go, and an upgrade of the proxy."""

import json
import os

import pytest

from support import network
from support.bpf_map import dump
from support.nodes.hand_over import MIRROR, Talkers, upgrade
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import wait_for
from support.wire.access_log import AccessLog

RELAY, KERNEL = {"BRUMA_SAME_NODE": "relay"}, ("--same-node", "kernel")


@pytest.fixture(scope="module")
def mesh():
    """All that can be switched on is."""
    with Mesh(nodes=2, workers=2, proxy_env=RELAY, agent_options=KERNEL) as m:
        m.web, m.near, m.shop = m.pod("web"), m.pod("near"), m.pod("shop", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.node = m.nodes[0]
        m.start()
        for pod in m.pods:
            pod.server(ECHO, 8080)
        yield m


def counted(pod, name):
    cookie = int(pod.item()["cookie"])
    found = [value for key, value in dump(pod.node, "direct_counters") if int(key) == cookie]
    return found[0][name] if found else 0


def becomes_direct(client, server, name, family):
    """Until one has stayed in the kernel; the first ones may go before the proxy has said that they may."""
    pod = server if name == "direct_inbound_lookups" else client
    before = counted(pod, name)

    def once():
        assert client.python(ONE_SHOT, server.ips[family], 8080, "well") == "well"
        return counted(pod, name) > before

    wait_for(once, f"{name} of {pod.name}", 60, log=pod.node.proxy_log)


def missing(mesh):
    """The checks of the doctor that fail."""
    checks = json.loads(mesh.node.ctl("doctor", "-o", "json", check=False).stdout)
    assert checks
    return {c["check"]: c["detail"] for c in checks if not c["ok"]}


def test_what_is_missing_has_a_name(mesh):
    found = missing(mesh)
    print(os.uname().release, found)
    assert set(found) <= {"same node"} and "no tcx links" in found.get("same node", "no tcx links")


@pytest.mark.parametrize("family", [0, 1])
def test_a_tunnel_to_another_node(mesh, family):
    log = AccessLog(mesh.nodes[1])
    assert mesh.web.python(ONE_SHOT, mesh.shop.ips[family], 8080, "well") == "well"
    line = log.wait("a connection from web", direction="inbound", src__workload="web")
    assert line["src.identity"] == mesh.web.identity


@pytest.mark.parametrize("family", [0, 1])
def test_past_the_proxy(mesh, family):
    becomes_direct(mesh.web, mesh.outside, "direct_outside_connections", family)
    becomes_direct(mesh.outside, mesh.shop, "direct_inbound_lookups", family)


@pytest.mark.parametrize("family", [0, 1])
def test_between_pods_of_one_node(mesh, family):
    """In the kernel where that can; else the proxy relays it."""
    if "same node" not in missing(mesh):
        becomes_direct(mesh.web, mesh.near, "direct_node_connections", family)
        return
    log = AccessLog(mesh.node)
    assert mesh.web.python(ONE_SHOT, mesh.near.ips[family], 8080, "well") == "well"
    line = log.wait("a connection from web", direction="inbound", src__workload="web")
    assert line["src.identity"] == mesh.web.identity


def test_live_connections_move_to_the_next_proxy(mesh):
    mesh.shop.server(MIRROR, "8081")
    talkers = Talkers(mesh.web, mesh.shop.ip, 3, 10_000, port=8081)
    moved, _ = upgrade(mesh.node)
    assert moved["moved"] and not moved["left"]
    talkers.goes_on(100_000)
    talkers.end()


def test_a_pod_that_leaves_keeps_nothing_of_ours(mesh):
    pod = mesh.pod("late")
    before = network.rules_and_routes(pod.netns)
    pod.cni("ADD")
    assert network.rules_and_routes(pod.netns) != before
    pod.cni("DEL")
    assert network.rules_and_routes(pod.netns) == before
