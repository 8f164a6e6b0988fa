# SPDX-License-Identifier: Apache-2.0
"""Certificates of pods from a real SPIRE: a server and an agent for each of two trust domains that federate. What an agent
never says is in test_spire_answers.py."""

import json
import socket

import pytest
import yaml

from support.identity_files import Domain
from support.network import inside
from support.nodes.mesh import Mesh, MeshNode, MeshPod
from support.nodes.pod_programs import ECHO
from support.pages import get
from support.programs import program
from support.spire import HERE, Spire
from support.system import Process, wait_for
from support.xds.site import CLIENT

pytestmark = pytest.mark.skipif(
    not HERE, reason="BRUMA_SPIRE does not name a directory with spire-server and spire-agent"
)

REFUSED = ("closed", "ConnectionResetError")
TTL = 40  # seconds of web's certificate: the agent renews it at half of that


class OwnNode(MeshNode):
    """The node of a mesh, whose proxy has settings of its own."""

    own_env = None

    def proxy_env(self):
        return {**super().proxy_env(), **(self.own_env or {})}


GROUP = 1337


class Machine(MeshPod):
    """Beside the pods of the node, with a proxy of its own, whose group SPIRE knows it by."""

    proxy = None

    def enroll(self):
        path = f"{self.node.mesh.dir}/given.yaml"
        peers = (self, *self.peers)
        with open(path, "w") as f:
            yaml.safe_dump({"workloads": [self.words(p) for p in peers], "services": [], "policies": []}, f)
        env = {
            "PROXY_MODE": "dedicated",
            "PROXY_WORKLOAD_INFO": f"{self.namespace}/{self.name}/{self.account}",
            "TRUST_DOMAIN": self.domain.name,
            "XDS_ADDRESS": "",
            "LOCAL_XDS_PATH": path,
            "BRUMA_RUN_DIR": "/nonexistent",
            **self.spire.env(),
            "BRUMA_SPIRE_SOCKET": self.spire.workload_socket,
        }
        argv = ["setpriv", "--regid", str(GROUP), "--clear-groups", program("bruma-proxy")]
        self.proxy = Process(argv, f"{self.node.mesh.dir}/{self.name}-proxy.log", netns=self.netns, env=env)
        self.processes.append(self.proxy)

    @staticmethod
    def words(pod):
        return {
            "name": pod.name,
            "namespace": pod.namespace,
            "serviceAccount": pod.account,
            "trustDomain": pod.domain.name,
            "workloadIps": pod.ips,
            "protocol": "HBONE",
            "workloadName": pod.name,
        }

    def certificate(self):
        with inside(self.netns):
            s = socket.create_connection(("127.0.0.1", 15000), timeout=20)
        (item,) = json.loads(get(s, "/config_dump")[1])["certificates"]
        return item


class World:
    """near: web and cart, in near.domain; far: shop, in far.domain."""

    def __init__(self):
        self.mesh = Mesh(nodes=2, node_kinds=(OwnNode, OwnNode))
        self.spires = [
            Spire(f"{self.mesh.dir}/{name}", node.netns, f"{name}.domain")
            for node, name in zip(self.mesh.nodes, ("near", "far"), strict=True)
        ]
        self.spire, self.other = self.spires
        self.node, self.entries = self.mesh.nodes[0], {}
        self.web, self.cart, self.shop = self.pod("web", 0), self.pod("cart", 0), self.pod("shop", 1)
        self.vm = self.pod("vm", 0, Machine)
        self.vm.more.update({"protocol": "HBONE", "node": ""})
        self.vm.peers = (self.web, self.cart, self.shop)

    def start(self):
        for spire, node in zip(self.spires, self.mesh.nodes, strict=True):
            spire.start()
            node.own_env = spire.env()
        for spire, other in ((self.spire, self.other), (self.other, self.spire)):
            spire.federate(other)
        self.enter(self.web, f"k8s:pod-uid:{self.web.uid}", ttl=TTL)
        for pod in (self.cart, self.shop):
            self.enter(pod)
        self.spire.entry(
            self.vm.domain.identity(self.vm),
            f"unix:gid:{GROUP}",
            federates=[self.other.trust_domain],
            ttl=TTL,
        )
        self.mesh.start()
        for pod in (self.web, self.shop, self.cart, self.vm):
            pod.server(ECHO, "8080")

    def pod(self, name, node, kind=MeshPod):
        pod = self.mesh.pod(name, node=node, kind=kind)
        pod.spire, pod.domain = self.spires[node], Domain(self.spires[node].trust_domain)
        pod.more = {"trustDomain": pod.domain.name}
        return pod

    def enter(self, pod, *selectors, federates=True, ttl=None):
        """Its entry, as in a cluster."""
        (other,) = (s for s in self.spires if s is not pod.spire)
        self.entries[pod] = pod.spire.entry(
            pod.domain.identity(pod),
            f"k8s:ns:{pod.namespace}",
            f"k8s:sa:{pod.account}",
            *selectors,
            federates=[other.trust_domain] if federates else [],
            ttl=ttl,
        )

    def certificate(self, pod):
        dump = pod.node.config_dump()["certificates"]
        return next((c for c in dump if c["identity"] == pod.domain.identity(pod)), None)

    def serial(self, pod):
        chain = self.certificate(pod)["certChain"]
        return chain[0]["serialNumber"] if chain else None

    def said(self, start, *words):
        """Lines of the log since then with all of the words."""
        return [x for x in self.node.proxy.text()[start:].splitlines() if all(w in x for w in words)]


@pytest.fixture(scope="module")
def world():
    world = World()
    try:
        with world.mesh:
            world.start()
            yield world
    finally:
        for spire in world.spires:
            spire.stop()


def ask(client, server):
    return client.python(CLIENT, server.ip, 8080).strip()


def asks_well(client, server):
    return ask(client, server) == "ping"


def test_two_trust_domains_meet_in_both_directions(world):
    wait_for(lambda: asks_well(world.web, world.shop), "the entries to have come to the agents", 60)
    assert asks_well(world.shop, world.web)
    assert asks_well(world.web, world.cart) and asks_well(world.cart, world.web)
    metrics = world.node.metrics()
    assert 'bruma_identities{source="spire"} 2\n' in metrics
    for name, value in (("connected", 1), ("subscriptions", 2), ("bundles", 2), ("bundles_unusable", 0)):
        assert f"\nbruma_spire_{name} {value}\n" in metrics, name
    item = world.certificate(world.web)
    assert item["source"] == "spire" and item["state"] == "Available" and "error" not in item


def test_a_certificate_is_renewed_by_the_agent(world):
    old, start = world.serial(world.web), len(world.node.proxy.text())
    wait_for(lambda: world.serial(world.web) not in (old, None), "the next certificate", 2 * TTL)
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    assert not world.said(start, "WARN"), "it needs no other stream, and nothing went wrong"


def test_a_proxy_of_its_own_is_a_workload(world):
    """It asks the Workload API, which says who it is."""
    wait_for(lambda: world.vm.certificate()["certChain"], "its certificate", 60, log=world.vm.proxy.log)
    item = world.vm.certificate()
    assert item["source"] == "spire" and item["state"] == "Available"
    assert asks_well(world.web, world.vm), "in its own trust domain"
    assert asks_well(world.shop, world.vm), "and from the one that it is federated with"
    name = world.vm.domain.identity(world.vm)
    for node in world.mesh.nodes:
        wait_for(lambda node=node: node.access_log(f'dst.identity="{name}"'), "its identity in their logs")
    serial = item["certChain"][0]["serialNumber"]
    wait_for(
        lambda: world.vm.certificate()["certChain"][0]["serialNumber"] != serial, "the next one", 2 * TTL
    )
    assert asks_well(world.web, world.vm)


def test_an_entry_goes_and_another_comes(world):
    start = len(world.node.proxy.text())
    world.spire.delete_entry(world.entries[world.cart])
    wait_for(
        lambda: world.said(start, "sa/cart", "spire_no_entry", "no entry matches"),
        "the reason in the log",
        60,
    )
    assert world.serial(world.cart) is None and ask(world.cart, world.web) in REFUSED
    wait_for(lambda: ask(world.shop, world.cart) in REFUSED, "tunnels from before to serve it no longer")
    world.enter(world.cart)
    wait_for(lambda: asks_well(world.cart, world.web), "traffic with the next entry", 60)


def test_a_pod_that_comes_before_its_entry(world):
    late = world.pod("late", 0)
    world.mesh.write()
    late.enroll()
    wait_for(lambda: world.said(0, "sa/late", "spire_no_entry"), "it to be asked for")
    world.enter(late)
    wait_for(lambda: asks_well(late, world.shop), "traffic once it is there", 60)


def test_the_bundle_of_the_other_goes_and_comes(world):
    world.spire.part(world.other)
    wait_for(lambda: ask(world.web, world.shop) in REFUSED, "the other domain to be refused", 60)
    assert asks_well(world.web, world.cart), "the own domain is as it was"
    world.spire.federate(world.other)
    for pod, selectors, ttl in ((world.web, [f"k8s:pod-uid:{world.web.uid}"], TTL), (world.cart, [], None)):
        world.spire.delete_entry(world.entries[pod])
        world.enter(pod, *selectors, ttl=ttl)
    wait_for(lambda: asks_well(world.web, world.shop), "it to be believed again", 60)
    wait_for(lambda: asks_well(world.cart, world.shop), "it to be believed again by all", 60)


def test_an_agent_that_is_gone_and_back(world):
    before, start = world.serial(world.cart), len(world.node.proxy.text())
    world.spire.stop_agent()
    wait_for(lambda: world.said(start, "sa/cart", "spire_unreachable"), "the reason in the log")
    assert "\nbruma_spire_connected 0\n" in world.node.metrics()
    assert world.serial(world.cart) == before and asks_well(world.cart, world.shop)
    world.spire.start_agent()
    wait_for(lambda: world.serial(world.cart) not in (before, None), "the next certificate", 60)
    wait_for(lambda: asks_well(world.web, world.shop), "all to be well", 60)


def test_a_proxy_that_is_no_delegate_is_told_so(world):
    start = len(world.node.proxy.text())
    world.spire.stop_agent()
    world.spire.start_agent(delegates=["spiffe://near.domain/somebody-else"])
    why = "permission denied: caller not configured as an authorized delegate"
    wait_for(lambda: world.said(start, "sa/cart", "spire_refused", why), "the reason in the log", 60)
    assert asks_well(world.cart, world.shop), "by the certificate that it has"
    world.spire.stop_agent()
    world.spire.start_agent()
    wait_for(lambda: "\nbruma_certificates_not_renewed 0\n" in world.node.metrics(), "all to be well", 90)
    assert asks_well(world.cart, world.shop)


def roots(world, pod):
    return {c["serialNumber"] for c in world.certificate(pod)["rootCerts"]}


def test_the_authority_is_replaced(world):
    """From the next authority on to the former's root being gone, no connection fails, nor does the other domain need to be told
    twice what it knows."""
    start, first = len(world.node.proxy.text()), roots(world, world.web)
    former, following = world.spire.authority("show"), world.spire.authority("prepare")
    world.other.federate(world.spire)
    wait_for(lambda: len(roots(world, world.cart)) == len(first) + 1, "both roots to be trusted", 60)
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    before = world.serial(world.cart)
    world.spire.authority("activate", "-authorityID", following)
    world.spire.authority("taint", "-authorityID", former)
    wait_for(lambda: world.serial(world.cart) not in (before, None), "a certificate of the next one", 60)
    assert asks_well(world.cart, world.shop) and asks_well(world.shop, world.web)
    world.spire.authority("revoke", "-authorityID", former)
    world.other.federate(world.spire)
    wait_for(lambda: not roots(world, world.cart) & first, "the former root to be gone", 60)
    assert asks_well(world.cart, world.shop) and asks_well(world.shop, world.web)
    assert not world.said(start, "warn"), "nobody was without a certificate"
