# SPDX-License-Identifier: Apache-2.0
"""Direct ways: what the proxy tells the kernel of the mesh and of its pods, who is in charge, and that its word ends with it,
however it ends."""

import signal

import pytest

from support.direct import ADDRESSES_MAX, OUTSIDE, DirectMaps
from support.nodes.direct import LONG
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.system import wait_for

WHY = [  # enum bruma_long_way
    *("none", "switched_off", "switched_off_for_pod", "no_proxy", "proxy_gone", "proxy_silent"),
    *("pod_unknown", "workload_unknown", "in_mesh", "dns", "registry_only", "on_demand", "several_devices"),
    *("socket_bound", "set_incomplete", "flows_full", "policy_depends", "policy_missing", "policy_dry_run"),
    *("proxy_header", "other_address", "ending"),
]


OUTSIDE_ALONE = ("--direct-outside", "true", "--direct-inbound", "false")

KEPT = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080))
s.sendall(b"x")
if s.recv(1):
    print("READY", flush=True)
s.recv(1)
"""


@pytest.fixture(scope="module")
def mesh():
    # a proxy that is replaced stays as long as it has a connection
    with Mesh(nodes=2, agent_options=(*OUTSIDE_ALONE, "--hand-over", "false")) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.start()
        m.maps = DirectMaps(m.nodes[0])
        m.maps.wait_charge()
        yield m


@pytest.fixture
def maps(mesh):
    """Of a node whose proxy is in charge, also if the test before has ended it."""
    node = mesh.nodes[0]
    if not node.proxy.alive():
        node.start_proxy()
    mesh.maps.wait_charge()
    wait_for(lambda: mesh.maps.page()["set"] == "complete", "the mesh to be in the maps")
    yield mesh.maps
    mesh.services.clear()
    mesh.write()


def service(name, **more):
    return {
        "name": name,
        "namespace": "demo",
        "hostname": f"{name}.demo.svc.cluster.local",
        "ports": {80: 8080},
        **more,
    }


def test_addresses_follow_the_mesh(mesh, maps):
    pods = {mesh.web.ip, mesh.web.ip6, mesh.shop.ip, mesh.shop.ip6}
    assert pods <= set(maps.addresses())
    mesh.services.append(service("late", vips=["/10.96.7.7", f"/{mesh.shop.ip}"]))
    mesh.services.append(service("range", cidrVips=[{"network": "", "cidr": "240.7.0.0/16"}]))
    mesh.services.append(service("range6", cidrVips=[{"network": "other", "cidr": "fd77::/64"}]))
    mesh.write()
    wait_for(lambda: len(maps.prefixes()) == 2, "the ranges")
    assert set(maps.prefixes()) == {"240.7.0.0/112", "fd77::/64"}
    assert maps.control()["prefixes"] > 0
    wait_for(lambda: maps.addresses().get(mesh.shop.ip) == 2, "the number of who has it, for people")
    assert "10.96.7.7" in maps.addresses()
    del mesh.services[:]
    mesh.write()
    wait_for(lambda: "10.96.7.7" not in maps.addresses() and not maps.prefixes(), "them to go")
    assert maps.addresses()[mesh.shop.ip] == 1 and pods <= set(maps.addresses())
    page = maps.page()
    assert page["inCharge"] and page["addresses"] == len(maps.addresses()) and page["prefixes"] == 0


def test_a_plain_workload_of_this_network_may_be_dialed_directly(mesh, maps):
    plain = {
        "uid": "plain",
        "name": "plain",
        "namespace": "demo",
        "workloadIps": ["192.0.2.7"],
        "protocol": "TCP",
        "node": "elsewhere",
    }
    mesh.extra.append({**plain, "uid": "far", "name": "far", "network": "far", "workloadIps": ["192.0.2.8"]})
    mesh.extra.append(plain)
    mesh.write()
    wait_for(lambda: "192.0.2.8" in maps.addresses(), "the one in another network")
    wait_for(
        lambda: (
            '"uid": "plain"'
            in str(mesh.nodes[0].http(15000, "/config_dump")[1]).replace('"uid":"plain"', '"uid": "plain"')
        ),
        "the plain one to be known",
    )
    assert "192.0.2.7" not in maps.addresses()
    mesh.extra.clear()
    mesh.write()
    wait_for(lambda: "192.0.2.8" not in maps.addresses(), "it to go")


def test_its_word_is_renewed_and_names_a_process_that_lives(mesh, maps):
    before = maps.control()
    assert before["ways"] & OUTSIDE and maps.valid()
    assert before["proxy"] in maps.proxies()
    wait_for(
        lambda: maps.control()["valid_until_nanoseconds"] > before["valid_until_nanoseconds"], "a renewal"
    )
    entry = wait_for(lambda: maps.pods().get("demo/web"), "the entry of the pod")
    assert entry["proxy"] == before["proxy"] and entry["ways"] & OUTSIDE, entry
    assert "bruma_direct_in_charge 1" in mesh.nodes[0].metrics()


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        ("bruma.io/outbound-traffic-policy", "REGISTRY_ONLY", "registry_only"),
        ("bruma.io/direct-outside", "false", "switched_off_for_pod"),
    ],
)
def test_what_a_pod_may_do_is_in_its_entry(mesh, maps, annotation, value, why):
    mesh.web.more = {"annotations": {annotation: value}}
    mesh.write()
    wait_for(lambda: WHY[maps.pods()["demo/web"]["outside_why"]] == why, "the way to be closed")
    assert not maps.pods()["demo/web"]["ways"] & OUTSIDE
    assert [p["outside"] for p in maps.page()["pods"]] == [why]
    del mesh.web.more
    mesh.write()
    wait_for(lambda: maps.pods()["demo/web"]["ways"] & OUTSIDE, "it to be open again")


def test_a_pod_that_leaves_has_no_entry(mesh, maps):
    late = mesh.pod("late")
    mesh.tell()
    late.enroll()
    wait_for(lambda: maps.pods().get("demo/late", {}).get("ways", 0) & OUTSIDE, "its entry")
    late.cni("DEL")
    wait_for(lambda: len(maps.pods()) == 1, "the entry to go")
    late.remove()
    mesh.write()
    wait_for(lambda: late.ip not in maps.addresses(), "its address to go")


def test_stopped_it_is_not_believed_for_long(mesh, maps):
    node = mesh.nodes[0]
    node.proxy.kill(signal.SIGSTOP)
    try:
        wait_for(lambda: not maps.valid(), "its time to come")
        assert maps.proxies(), "it lives, as the kernel sees it"
    finally:
        node.proxy.kill(signal.SIGCONT)
    wait_for(maps.valid, "it to be believed again")


def test_killed_its_socket_is_gone_and_the_next_one_sweeps(mesh, maps):
    node, number = mesh.nodes[0], maps.holder()
    node.proxy.kill()
    wait_for(lambda: number not in maps.proxies(), "the kernel to see it")
    assert maps.holder() == number and number in maps.owners(), "it has had no time to take anything back"
    node.start_proxy()
    assert maps.wait_charge(other_than=number) != number
    wait_for(lambda: number not in maps.owners(), "its entries to go")
    assert mesh.web.ip in maps.addresses()
    assert "bruma_direct_swept_total" in node.metrics()


def test_it_ends_and_takes_its_word_back(mesh, maps):
    node = mesh.nodes[0]
    node.proxy.stop()
    assert maps.holder() == 0 and WHY[maps.control()["why"]] == "ending"
    assert not maps.proxies()


def test_a_second_proxy_takes_over_and_the_first_one_comes_back(mesh, maps):
    """The first has a connection that keeps it."""
    node, first = mesh.nodes[0], mesh.nodes[0].proxy
    mesh.shop.server(ECHO, 8080)
    kept = mesh.web.popen("python3", "-c", KEPT, mesh.shop.ip)
    kept.wait_for_text("READY")
    old = maps.holder()
    # the pages' ports are the first one's: in a cluster each has a namespace of its own
    second = node.start_proxy(
        wait=False, BRUMA_ADMIN_PORT="0", BRUMA_METRICS_PORT="0", BRUMA_READY_PORT="15031"
    )
    new = maps.wait_charge(other_than=old)
    assert maps.proxies() == {old, new}
    wait_for(lambda: old not in maps.owners(), "the first one to take its entries back")
    assert maps.pods()["demo/web"]["proxy"] == new
    second.kill()
    assert maps.wait_charge(other_than=new) == old
    assert mesh.web.ip in maps.addresses() and maps.pods()["demo/web"]["proxy"] == old
    node.proxy = first
    kept.kill()


def test_a_full_map_ends_its_word_until_there_is_room(mesh, maps):
    """Entries of somebody else take the room; of one that lives, else they would be swept."""
    node, number = mesh.nodes[0], maps.holder()
    entries = len(maps.addresses())
    foreign = ADDRESSES_MAX - entries - 1
    stranger = number ^ 1
    assert maps.fill(stranger, foreign)
    try:
        mesh.services.append(service("one", vips=["/10.96.8.1"]))
        mesh.services.append(service("two", vips=["/10.96.8.2"]))
        mesh.write()
        wait_for(lambda: maps.holder() == 0, "the word to be taken back", log=node.proxy_log)
        assert WHY[maps.control()["why"]] == "set_incomplete"
        wait_for(lambda: "bruma_direct_mesh_rebuilds_total" in node.metrics(), "another attempt")
        page = maps.page()
        assert not page["inCharge"] and page["failures"] >= 1 and page["set"] != "complete"
        assert "not all of the mesh could be written to the kernel's maps" in node.proxy.text()
    finally:
        maps.empty(stranger, foreign)
    assert maps.wait_charge(timeout=40) == number
    assert {"10.96.8.1", "10.96.8.2"} <= set(maps.addresses())


def test_without_the_agent_the_last_word_holds(mesh, maps):
    """It is the control plane here, too."""
    node, number = mesh.nodes[0], maps.holder()
    node.agent.kill()
    until = maps.control()["valid_until_nanoseconds"]
    wait_for(lambda: maps.control()["valid_until_nanoseconds"] > until + 3e9, "it to go on")
    assert maps.holder() == number and maps.valid() and mesh.shop.ip in maps.addresses()
    node.start_agent(*mesh.agent_options)
    wait_for(lambda: "connected to the agent" in node.proxy.text()[-4000:], "the proxy to be back")
    assert maps.wait_charge() == number, "the same maps again change nothing"


def test_switched_off_nobody_is_in_charge(mesh, maps):
    node = mesh.nodes[0]
    node.agent.stop()
    node.start_agent(*LONG)
    try:
        wait_for(lambda: maps.holder() == 0, "the word to be taken back")
        assert WHY[maps.control()["why"]] == "switched_off"
        wait_for(lambda: not maps.owners(), "the mesh to leave the maps")
    finally:
        node.agent.stop()
        node.start_agent(*mesh.agent_options)
    maps.wait_charge()
    assert mesh.web.ip in maps.addresses()
