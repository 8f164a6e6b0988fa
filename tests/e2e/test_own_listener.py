# SPDX-License-Identifier: Apache-2.0
"""The proxy's own listener (contract section 13.4): HBONE on port 15008 of the namespace that the proxy runs in, for its own
identity, so that the mesh reaches its metrics by mutual TLS. Under bruma-agent and under a CNI agent of another kind."""

import re
import signal
import socket
import ssl

import pytest

from support.certificates import Authority
from support.network import inside
from support.nodes.mesh import Mesh, MeshNode, leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.nodes.zds_node import ZdsNode
from support.proxies import hbone
from support.system import Process, sh, wait_for
from support.wire.segments import Wire
from support.xds.plane import Plane

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
NODES = pytest.mark.parametrize("number", [1, 2], ids=["under-bruma-agent", "under-a-cni-agent"])

GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[1] + "/metrics", timeout=20).read().decode(), end="")
"""


def own_env(number):
    return {"POD_NAME": f"ztunnel-{number}", "POD_NAMESPACE": "istio-system", "SERVICE_ACCOUNT": "ztunnel"}


class OwnNode(MeshNode):
    """Certificates come from a CA of the tests with the mesh's key, as they do on a ZdsNode: the agent's signs for pods that it
    enrolled alone."""

    ca = None

    def proxy_env(self):
        if not self.ca:
            authority = Authority.load(f"{self.run_dir}/control/root-cert.pem", self.mesh.ca_key)
            self.ca = Plane(f"{self.mesh.dir}/ca{self.number}", self.netns, authority=authority)
        ca = {name: value for name, value in self.ca.env().items() if name.startswith("CA_")}
        return {**super().proxy_env(), **ca, **own_env(self.number)}

    def destroy(self):
        if self.ca:
            self.ca.stop()
        super().destroy()


class OwnZdsNode(ZdsNode):
    def proxy_env(self):
        return {**super().proxy_env(), **own_env(self.number)}


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=3, workers=2, node_kinds=[MeshNode, OwnNode, OwnZdsNode]) as m:
        m.web, m.stranger = m.pod("web", node=0), m.pod("stranger", node=0, namespace="outside")
        m.stranger.outside = True
        m.pods_by = {1: m.pod("shop", node=1), 2: m.pod("cart", node=2)}
        for node in m.nodes[1:]:
            m.extra.append(
                {
                    "name": f"ztunnel-{node.number}",
                    "namespace": "istio-system",
                    "serviceAccount": "ztunnel",
                    "workloadName": "ztunnel",
                    "canonicalName": "ztunnel",
                    "workloadIps": [node.gateway, node.gateway6],
                    "node": node.name,
                    "protocol": "HBONE",
                }
            )
        m.start()
        m.certificate = leaf(m, m.web.identity)
        yield m


def place(mesh, number, family):
    """(the node, the address of its proxy, the same as it stands in URLs and authorities)."""
    node = mesh.nodes[number]
    address = [node.gateway, node.gateway6][family]
    return node, address, address if family == 0 else f"[{address}]"


def ports(node):
    lines = sh("ss", "-N", node.netns, "-Hltn").splitlines()
    return sorted({int(line.split()[3].rsplit(":", 1)[1]) for line in lines})


def client_of(mesh, address, certificate=None):
    with inside(mesh.nodes[0].netns):
        return hbone.Client((address, 15008), *(certificate or mesh.certificate))


def ask(client, authority, seconds=10):
    """What a GET through the tunnel brings: (status of the CONNECT, bytes)."""
    sid = client.connect(authority)
    status = client.status(sid, seconds)
    if status == 200:
        client.send(sid, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        # A policy may cut it off.
        assert client.pump(lambda: client.ended(sid) or client.reset_code(sid) is not None)
    return status, client.received(sid)


@FAMILIES
@NODES
def test_metrics_are_scraped_through_a_tunnel_by_a_pod_of_the_mesh(mesh, number, family):
    node, _, literal = place(mesh, number, family)
    with Wire(mesh.nodes[0]) as wire:
        page = mesh.web.python(GET, f"{literal}:15020")
        assert not wire.holds(b"GET /metrics") and not wire.holds(b"istio_build")
    assert "istio_build" in page
    identity = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
    wait_for(
        lambda: [
            x
            for x in mesh.nodes[0].access_log()
            if 'direction="outbound"' in x and f'dst.identity="{identity}"' in x and f"{literal}:15020" in x
        ],
        "the client's side in the log",
    )
    wait_for(
        lambda: [
            x
            for x in node.access_log()
            if 'direction="inbound"' in x and f'src.identity="{mesh.web.identity}"' in x
        ],
        "the proxy's side in the log",
    )
    counted = r'istio_tcp_connections_opened_total\{reporter="destination",.*destination_workload="ztunnel"'
    assert [
        x
        for x in node.metrics().splitlines()
        if re.match(counted, x) and 'connection_security_policy="mutual_tls"' in x
    ]


@FAMILIES
@NODES
def test_an_independent_client_gets_metrics_and_nothing_else(mesh, number, family):
    _, address, literal = place(mesh, number, family)
    client = client_of(mesh, address)
    status, page = ask(client, f"{literal}:15020")
    assert status == 200 and b"200 OK" in page and b"istio_build" in page
    assert ask(client, f"{literal}:15008")[0] == 503
    assert ask(client, f"{mesh.pods_by[number].ips[family]}:8080")[0] == 400
    assert ask(client, f"{literal}:15000")[0] == 503  # the admin pages are on loopback alone
    client.close()


@FAMILIES
@NODES
def test_loopback_is_not_reached_by_a_tunnel_from_there(mesh, number, family):
    """The admin pages take the proxy, which is root, for root."""
    node, address = mesh.nodes[number], ("127.0.0.1", "::1")[family]
    with inside(node.netns):
        client = hbone.Client((address, 15008), *mesh.certificate)
    for port in (15000, 15020):
        assert ask(client, f"{address}:{port}" if family == 0 else f"[{address}]:{port}")[0] == 503
    client.close()


@NODES
def test_strangers_do_not_get_in(mesh, number):
    _, address, _ = place(mesh, number, 0)
    foreign = leaf(mesh, "spiffe://other.domain/ns/demo/sa/web")
    with inside(mesh.nodes[0].netns):
        connection = socket.create_connection((address, 15008), timeout=10)
    with (
        connection,
        hbone.context(False, *foreign).wrap_socket(connection) as tls,
        pytest.raises(ssl.SSLError),
    ):
        tls.recv(100)


@NODES
def test_nothing_is_captured_there(mesh, number):
    node = mesh.nodes[number]
    assert 15008 in ports(node) and not {15001, 15006, 15053} & set(ports(node))
    # Plaintext, as before: from the node itself, and from who is not in the mesh.
    assert node.http(15020, "/metrics")[0] == 200
    assert "istio_build" in mesh.stranger.python(GET, f"{place(mesh, number, 0)[1]}:15020")


@FAMILIES
@NODES
def test_applications_there_see_the_proxys_own_address(mesh, number, family):
    node, address, _ = place(mesh, number, family)
    server = Process(
        ["/usr/bin/python3", "-u", "-c", ECHO, "18080"],
        f"{mesh.dir}/echo{number}{family}.log",
        netns=node.netns,
    )
    try:
        server.wait_for_text("READY")
        assert mesh.web.python(ONE_SHOT, address, 18080, "ping") == "ping"
        wait_for(
            lambda: f"FROM {['::ffff:', ''][family]}{address} " in server.text(), "the address at the server"
        )
    finally:
        server.kill()


@NODES
def test_policies_of_the_proxys_own_workload_count(mesh, number):
    _, address, literal = place(mesh, number, 0)
    mesh.policies.append(
        {
            "name": "no-web",
            "namespace": "istio-system",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": False,
            "rules": [mesh.web.rule(destinationPorts=[15020])],
        }
    )
    client = client_of(mesh, address)
    try:
        mesh.write()
        wait_for(lambda: ask(client, f"{literal}:15020")[0] == 401, "the policy")
    finally:
        mesh.policies.clear()
        mesh.write()
    wait_for(lambda: ask(client, f"{literal}:15020")[0] == 200, "the end of the policy")
    client.close()


@NODES
def test_the_pods_of_the_node_are_served_beside_it(mesh, number):
    pod = mesh.pods_by[number]
    pod.server(ECHO, "8080")
    assert mesh.web.python(ONE_SHOT, pod.ip, 8080, "ping") == "ping"
    states = {
        s["info"]["name"]: s["state"] for s in mesh.nodes[number].config_dump()["workloadState"].values()
    }
    assert states == {f"ztunnel-{number + 1}": "Up", pod.name: "Up"}
    active = re.search(r"workload_manager_active_proxy_count (\d+)", mesh.nodes[number].metrics())
    assert active and active[1] == "1", "pods that an agent has named are counted"


@NODES
def test_a_listener_that_is_destroyed_is_opened_again(mesh, number):
    node, address, literal = place(mesh, number, 0)
    sh("ss", "-N", node.netns, "-K", "state", "listening", "sport", "=", "15008")
    wait_for(lambda: 15008 in ports(node), "the listener")

    def served():
        try:
            client = client_of(mesh, address)
            return ask(client, f"{literal}:15020")[0] == 200
        except OSError:
            return False

    wait_for(served, "the tunnel")


def test_a_port_that_is_taken_is_waited_for(mesh):
    """The pods of the node are served meanwhile, and the proxy is ready."""
    node, address, literal = place(mesh, 1, 0)
    node.proxy.stop()
    with inside(node.netns), socket.create_server(("0.0.0.0", 15008)):
        node.start_proxy()
        node.proxy.wait_for_text("the proxy's own pod cannot be served; retrying")
        assert "reason=listener_open_failed error=\"cannot open the pod's HBONE listener on port 15008" in (
            node.proxy.text()
        )
        mesh.pods_by[1].wait_enrolled()
        assert mesh.web.python(ONE_SHOT, mesh.pods_by[1].ip, 8080, "ping") == "ping"

    def served():
        try:
            return ask(client_of(mesh, address), f"{literal}:15020")[0] == 200
        except OSError:
            return False

    wait_for(served, "the tunnel")


@NODES
def test_a_proxy_that_ends_says_so_on_the_tunnel(mesh, number):
    node, address, literal = place(mesh, number, 0)
    client = client_of(mesh, address)
    assert ask(client, f"{literal}:15020")[0] == 200
    former = node.proxy
    former.kill(signal.SIGTERM)
    assert client.pump(lambda: client.goaways), "no GOAWAY"
    assert client.goaways[0] == (0, 2**31 - 1)
    former.wait()
    assert 15008 not in ports(node)
    node.start_proxy()
    assert "istio_build" in mesh.web.python(GET, f"{literal}:15020")


def test_a_replaced_proxy_listens_again_when_its_successor_is_gone(mesh):
    node, address, literal = place(mesh, 1, 0)
    node.proxy.stop()
    before = len(node.proxy.text())

    def said(text):
        wait_for(lambda: text in node.proxy.text()[before:], f"the first to say {text!r}")

    first = node.start_proxy(BRUMA_REPLACED_LINGER="60s")
    second = node.start_proxy(wait=False)
    said("draining")
    wait_for(lambda: ask(client_of(mesh, address), f"{literal}:15020")[0] == 200, "the second to serve")
    second.kill()
    said("serving again")
    wait_for(lambda: 15008 in ports(node), "the listener of the first")
    client = client_of(mesh, address)
    assert ask(client, f"{literal}:15020")[0] == 200
    client.close()
    node.proxy = first


def test_without_the_three_variables_there_is_no_such_listener(mesh):
    assert 15008 not in ports(mesh.nodes[0])
