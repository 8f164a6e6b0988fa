# SPDX-License-Identifier: Apache-2.0
"""The outbound traffic policy: REGISTRY_ONLY refuses what the mesh does not know, ALLOW_ANY passes it
through."""

import os

import pytest
import yaml

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, STREAM, ask, goes_on
from support.system import wait_for

SETTING = "BRUMA_OUTBOUND_TRAFFIC_POLICY"


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, proxy_env={SETTING: "REGISTRY_ONLY"}, agent_options=("--dns-capture", "false")) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.web, m.shop, m.outside):
            pod.server(ECHO, 8080)
        yield m


@pytest.fixture
def describe(mesh):
    """Adds services and workloads to the mesh file for a test."""

    def add(services=(), workloads=()):
        mesh.services[:], mesh.extra[:] = services, workloads
        mesh.write()
        known = [s["hostname"] for s in services] + [w["uid"] for w in workloads]
        wait_for(lambda: all(k in str(mesh.nodes[0].config_dump()) for k in known), "the proxy to know them")

    yield add
    gone = [s["hostname"] for s in mesh.services] + [w["uid"] for w in mesh.extra]
    mesh.services.clear()
    mesh.extra.clear()
    mesh.write()
    wait_for(lambda: not any(g in str(mesh.nodes[0].config_dump()) for g in gone), "the proxy to forget them")


def addresses(pod):
    return {4: pod.ip, 6: pod.ip6}


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_unknown_is_refused_by_name(mesh, family):
    """connect() succeeds, since the connection is captured, and is reset at once."""
    node, to = mesh.nodes[0], addresses(mesh.outside)[family]
    before, lines = node.failures("destination_unknown"), len(node.access_log("destination_unknown"))
    assert ask(mesh.web, to) == "ECONNRESET"
    wait_for(lambda: node.failures("destination_unknown") == before + 1, "the metric")
    line = wait_for(lambda: node.access_log("destination_unknown")[lines:], "the log line")[0]
    said = node.ctl("explain", "demo/web", f"[{to}]:8080" if family == 6 else f"{to}:8080", check=False)
    assert "REGISTRY_ONLY" in said.stdout and "destination_unknown" in said.stdout
    assert 'direction="outbound"' in line and to in line and "REGISTRY_ONLY" in line


@pytest.mark.parametrize("family", [4, 6])
def test_pods_of_the_mesh_and_the_pod_itself_are_known(mesh, family):
    for pod in (mesh.shop, mesh.web):
        to = addresses(pod)[family]
        assert ask(mesh.web, to) == f"hello {to}"
    assert ask(mesh.web, "127.0.0.1" if family == 4 else "::1").startswith("hello")


def test_an_address_of_the_pod_that_its_network_has_not_named(mesh):
    mesh.web.run("ip", "addr", "add", "192.0.2.77/32", "dev", "lo")
    assert ask(mesh.web, "192.0.2.77") == "hello 192.0.2.77"


@pytest.mark.parametrize("family", [4, 6])
def test_a_service_entry_makes_it_known(mesh, describe, family):
    """Of resolution NONE: by single addresses, or by ranges, and passed through to where the pod dialled."""
    to = addresses(mesh.outside)[family]
    entry = {
        "name": "entry",
        "namespace": "demo",
        "hostname": "outside.example.com",
        "ports": {8080: 8080},
        "loadBalancer": {"routingPreferences": [], "mode": "Passthrough"},
    }
    describe([{**entry, "vips": [f"/{to}"]}])
    assert ask(mesh.web, to) == f"hello {to}"
    assert ask(mesh.web, addresses(mesh.outside)[10 - family]) == "ECONNRESET"
    target = f"[{to}]:8080" if family == 6 else f"{to}:8080"
    assert "to the address itself" in mesh.nodes[0].ctl("explain", "demo/web", target).stdout
    cidr = to.rsplit(".", 1)[0] + ".0/24" if family == 4 else to.rsplit("::", 1)[0] + "::/64"
    describe([{**entry, "hostname": "range.example.com", "cidrVips": [{"network": "", "cidr": cidr}]}])
    assert ask(mesh.web, to) == f"hello {to}"
    said = mesh.nodes[0].ctl("explain", "demo/web", target)
    assert "in the range of service range.example.com" in said.stdout


def test_a_service_of_another_namespace_that_is_private_to_it(mesh, describe):
    private = {
        "name": "private",
        "namespace": "else",
        "hostname": "private.example.com",
        "vips": [f"/{mesh.outside.ip}"],
        "ports": {8080: 8080},
        "loadBalancer": {"routingPreferences": [], "mode": "Passthrough"},
        "visibility": "Namespace",
    }
    describe([private])
    assert ask(mesh.web, mesh.outside.ip) == "ECONNRESET"


def test_a_node_on_which_a_pod_uses_the_nodes_network(mesh, describe):
    node = mesh.nodes[1]
    assert ask(mesh.web, node.gateway, port=15021) == "ECONNRESET"
    exporter = {
        "uid": "Kubernetes//Pod/demo/exporter",
        "name": "exporter",
        "namespace": "else",
        "workloadIps": [node.gateway],
        "node": node.name,
        "networkMode": "HostNetwork",
        "protocol": "TCP",
    }
    describe([], [exporter])
    http = "GET /healthz/ready HTTP/1.0\r\n\r\n"
    assert ask(mesh.web, node.gateway, http, port=15021).startswith("HTTP/1.")


def test_link_local_metadata_is_not_known_and_its_dns_is(mesh):
    """The server of the node's DNS cache is asked by UDP without capture, so its TCP is let through."""
    node = mesh.nodes[0]
    refused = node.failures("destination_unknown")
    assert ask(mesh.web, "169.254.169.254", port=80) == "ECONNRESET"
    wait_for(lambda: node.failures("destination_unknown") == refused + 1, "the refusal")
    mesh.web.run("ip", "route", "add", "unreachable", "169.254.20.10")
    assert ask(mesh.web, "169.254.20.10", port=53) == "ECONNRESET"
    wait_for(lambda: node.failures("connect_unreachable"), "an attempt to connect")
    assert node.failures("destination_unknown") == refused + 1


def write_policy(mesh, policy=None, annotations=None, of_pod=None):
    """Into the mesh file: of the mesh, of the namespace demo, of the pod web."""
    mesh.write()
    with open(mesh.file) as f:
        content = yaml.safe_load(f)
    if policy:
        content["outboundTrafficPolicy"] = {"mode": policy}
    for n in content["namespaces"]:
        n["annotations"] = annotations or {}
    for w in content["workloads"]:
        if w["name"] == "web":
            w["annotations"] = of_pod or {}
    with open(mesh.file + ".new", "w") as f:
        yaml.safe_dump(content, f)
    os.rename(mesh.file + ".new", mesh.file)


def becomes(mesh, answer):
    to = mesh.outside.ip
    wait_for(lambda: ask(mesh.web, to) == (answer or f"hello {to}"), f"the answer {answer or 'of outside'}")


def test_the_mesh_file_says_it_for_one_machine(mesh):
    """Of the mesh, of a namespace, of a pod: the nearest counts, and all before the proxy's setting."""
    key = "bruma.io/outbound-traffic-policy"
    node = mesh.nodes[0]
    write_policy(mesh, "ALLOW_ANY")
    becomes(mesh, None)
    write_policy(mesh, "ALLOW_ANY", {key: "REGISTRY_ONLY"})
    becomes(mesh, "ECONNRESET")
    write_policy(mesh, "ALLOW_ANY", {key: "REGISTRY_ONLY"}, {key: "ALLOW_ANY"})
    becomes(mesh, None)
    assert "ALLOW_ANY by the annotation of the pod's workload" in node.ctl("explain", "demo/web").stdout
    write_policy(mesh, "ALLOW_ANY", {}, {key: "maybe"})
    wait_for(lambda: "is not one of ALLOW_ANY" in node.status()["meshError"], "the refusal of the file")
    assert ask(mesh.web, mesh.outside.ip) == f"hello {mesh.outside.ip}", "the last good file counts"
    mesh.write()
    becomes(mesh, "ECONNRESET")


def test_a_proxy_that_is_replaced_gives_the_same_answer(mesh):
    """Both ways; the connections of the one before stay with it, until they end."""
    node = mesh.nodes[0]
    running = mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
    goes_on(running, "a connection through the mesh")
    node.start_proxy(BRUMA_ADMIN_PORT="0", BRUMA_METRICS_PORT="0", BRUMA_READY_PORT="15031", wait=False)
    wait_for(
        lambda: [p["state"] for p in node.status()["proxies"]][-1] == "serving",
        "the new proxy to serve",
        log=node.proxy_log,
    )
    assert ask(mesh.web, mesh.outside.ip) == "ECONNRESET"
    assert ask(mesh.web, mesh.shop.ip) == f"hello {mesh.shop.ip}"
    running.kill()
