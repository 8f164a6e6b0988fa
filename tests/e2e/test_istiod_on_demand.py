# SPDX-License-Identifier: Apache-2.0
"""XDS_ON_DEMAND against a stock istiod, where one is given (test_istiod.py says how): the first node's proxy asks for what its
connections need, the second one's subscribes to everything, and the mesh is much larger than what is used."""

import os
import re
import shutil

import pytest

from support import network
from support.kube.istiod import missing
from support.kube.istiod_world import AMBIENT, CP, ECHO, SECURITY, Cluster
from support.system import wait_for
from support.workspace import Workspace

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

VIP, OWN_VIP = "10.96.50.1", "10.96.50.2"
CROWD, CROWD_SERVICES = 200, 20
OUTSIDE, OUTSIDE_PORT = "203.0.113.9", 9099
TIMEOUT = 4  # seconds
SETTINGS = {
    "XDS_ON_DEMAND": "true",
    "ISTIO_META_DNS_CAPTURE": "false",
    "BRUMA_LOOKUP_TIMEOUT": f"{TIMEOUT}s",
    "BRUMA_LOOKUP_REFRESH": "2s",
}
OWN = {"web-1", "own-1", "ztunnel-n1"}  # the pods of the first node
WEB, CART = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/cart"


class World:
    def __init__(self, work):
        self.cluster = cluster = Cluster(work)
        self.node, self.other_node = cluster.nodes
        server = cluster.server
        server.make_namespace("shop", AMBIENT)
        server.make_namespace("plain")
        server.make_namespace("crowd", AMBIENT)
        for account in ("web", "cart"):
            server.create("v1", "ServiceAccount", account, "shop")
        self.crowd()
        cluster.start_node(self.other_node)
        cluster.start_node(self.node, **SETTINGS)
        self.web = self.pod("web-1", 10, account="web", node=self.node)
        self.own = self.pod("own-1", 11, labels={"app": "own"}, node=self.node)
        self.cart = self.pod("cart-1", 10, labels={"app": "cart"})
        self.alone = self.pod("alone-1", 11)
        self.caller = self.pod("caller-1", 12, account="web")
        self.plain = cluster.pod(self.other_node, "plain", "plain-1", 13)
        for pod in (self.own, self.cart, self.alone):
            cluster.server_in(pod)
        cluster.service("shop", "cart", VIP, {"app": "cart"}, {80: 8080})
        cluster.service("shop", "own", OWN_VIP, {"app": "own"}, {80: 8080})
        self.outside(work)
        for pod in (self.web, self.own, self.cart, self.alone, self.caller):
            self.known(self.other_node, pod)
        for pod in (self.web, self.own):
            self.known(self.node, pod)
        wait_for(lambda: cluster.service_of(self.other_node, "own"), "the services")

    def crowd(self):
        """What nobody calls."""
        for n in range(CROWD):
            self.cluster.server.create(
                "networking.istio.io/v1",
                "WorkloadEntry",
                f"crowd-{n}",
                "crowd",
                spec={"address": f"10.200.{n // 100}.{n % 100 + 1}", "labels": {"app": "crowd"}},
            )
        for n in range(CROWD_SERVICES):
            self.cluster.service("crowd", f"crowd-{n}", f"10.96.60.{n + 1}", {"app": "crowd"}, {80: 8080})

    def outside(self, work):
        """A server at an address that is in no resource."""
        network.address(self.cluster.cp, "lo", f"{OUTSIDE}/32")
        network.route(self.node.netns, f"{OUTSIDE}/32", CP.format(1))
        network.route(self.cluster.cp, "10.77.1.0/24", CP.format(1)[:-1] + "2")
        self.server = work.process(
            ["/usr/bin/python3", "-u", "-c", ECHO, str(OUTSIDE_PORT)], netns=self.cluster.cp
        )
        self.server.wait_for_text("READY")

    def pod(self, name, host, account="cart", labels=None, node=None):
        return self.cluster.pod(
            node or self.other_node, "shop", name, host, account=account, labels=labels or {"app": name}
        )

    def known(self, node, pod, seconds=30):
        wait_for(
            lambda: (self.cluster.workload(node, pod.name) or {}).get("protocol") == "HBONE",
            f"{node.name} to know {pod.name} with HBONE",
            seconds,
            log=node.proxy_log,
        )

    def ask(self, address, port=8080):
        return self.cluster.ping(self.web, address, port)

    def names(self, node=None):
        return {w["name"] for w in self.cluster.dump(node or self.node)["workloads"]}

    def services(self, node=None):
        return {s["name"] for s in self.cluster.dump(node or self.node)["services"]}

    def line(self, node, *needles):
        return wait_for(
            lambda: self.cluster.access(node, "connection complete", *needles), f"a line with {needles}"
        )

    def metric(self, name):
        return int(re.search(rf"^{name} (\d+)$", self.node.metrics(), re.M)[1])


@pytest.fixture(scope="module")
def world(request):
    w = Workspace(os.path.abspath(os.environ["BRUMA_BUILD"]))
    try:
        yield World(w)
    finally:
        errors = w.close()
        if not request.session.testsfailed:
            shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


def test_at_first_the_nodes_own_pods_and_policies_alone(world):
    """istiod sends the node's own pods unasked; who subscribes to everything knows everything."""
    assert world.names() == OWN and not world.services()
    assert world.metric("bruma_xds_looked_up") == 0
    assert len(world.names(world.other_node)) > CROWD
    assert len(world.services(world.other_node)) >= CROWD_SERVICES + 2
    rule = {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/nobody"]}}]}
    world.cluster.policy("AuthorizationPolicy", "crowd", "nobody", {"action": "DENY", "rules": [rule]})
    wait_for(lambda: "crowd/nobody" in world.cluster.policies(world.node), "the policy")


def test_a_service_is_asked_for_by_the_first_connection(world):
    assert world.ask(VIP, 80) == "ping"
    line = world.line(world.node, f"dst.hbone_addr={world.cart.ip}:8080", "cart.shop.svc.cluster.local")
    assert (line["dst.workload"], line["dst.identity"]) == ("cart-1", CART)
    line = world.line(world.other_node, 'direction="inbound"', 'dst.workload="cart-1"')
    assert (line["src.workload"], line["src.identity"]) == ("web-1", WEB)
    assert world.names() == OWN | {"cart-1"} and world.services() == {"cart"}


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_by_its_address(world, family):
    address = world.alone.ip if family == 4 else world.alone.ip6
    assert world.ask(address) == "ping"
    shown = f"{address}:8080" if family == 4 else f"[{address}]:8080"
    line = world.line(world.node, 'direction="outbound"', f"dst.hbone_addr={shown}")
    assert (line["dst.workload"], line["dst.identity"]) == ("alone-1", CART)
    assert world.names() >= {"alone-1"}


def test_an_address_that_istiod_does_not_know_passes(world):
    assert world.ask(OUTSIDE, OUTSIDE_PORT) == "ping"
    assert world.web.ip in world.server.text()
    line = world.line(world.node, 'direction="outbound"', f"dst.addr={OUTSIDE}:{OUTSIDE_PORT}")
    assert "dst.identity" not in line and "dst.hbone_addr" not in line
    # istiod knows no service there, so this one too is passed on, to nobody.
    assert world.ask("10.96.50.99", 80) != "ping"


def test_who_comes_in_has_its_labels(world):
    """By a tunnel to a pod and to its service, and in plaintext from outside of the mesh."""
    for address, port in ((world.own.ip, 8080), (OWN_VIP, 80)):
        assert world.cluster.ping(world.caller, address, port) == "ping"
        line = world.line(world.node, 'direction="inbound"', 'src.workload="caller-1"')
        assert (line["src.identity"], line["dst.workload"]) == (WEB, "own-1")
    wait_for(
        lambda: world.cluster.access(
            world.node, 'direction="inbound"', 'dst.service="own.shop.svc.cluster.local"'
        ),
        "the service that was called",
    )
    assert world.cluster.ping(world.plain, world.own.ip) == "ping"
    line = world.line(world.node, 'direction="inbound"', 'src.workload="plain-1"')
    assert "src.identity" not in line and line["src.namespace"] == "plain"


def test_endpoints_that_come_and_go_are_learnt(world):
    assert world.ask(VIP, 80) == "ping"
    second = world.pod("cart-2", 14, labels={"app": "cart"})
    server = world.cluster.server_in(second)
    world.known(world.other_node, second)
    wait_for(
        lambda: world.ask(VIP, 80) == "ping" and "cart-2" in world.names(), "the new endpoint to be known"
    )
    wait_for(lambda: world.ask(VIP, 80) == "ping" and "FROM" in server.text(), "the new endpoint to serve")
    server.kill()
    world.cluster.forget(world.other_node, second)
    world.cluster.server.delete_pod("shop", "cart-2")
    wait_for(lambda: "cart-2" not in world.names(), "the endpoint to be forgotten")
    for _ in range(5):
        assert world.ask(VIP, 80) == "ping"


def test_istiod_restarted(world):
    """Meanwhile what was asked for is good, and nothing else: a pod that goes then is forgotten afterwards."""
    gone = world.pod("gone-1", 15)
    server = world.cluster.server_in(gone)
    world.known(world.other_node, gone)
    late = world.pod("late-1", 16)
    world.cluster.server_in(late)
    world.known(world.other_node, late)
    assert world.ask(gone.ip) == "ping" and world.ask(VIP, 80) == "ping"
    outside = (OUTSIDE, OUTSIDE_PORT)
    assert world.ask(*outside) == "ping"
    world.cluster.istiod.stop()
    assert world.ask(VIP, 80) == "ping" and world.ask(gone.ip) == "ping"
    assert world.ask(*outside) == "ping", "that there is nothing is known too"
    before = world.node.failures("lookup_timeout")
    assert world.ask(late.ip) != "ping", "not passed on in plaintext"
    assert world.node.failures("lookup_timeout") == before + 1
    server.kill()
    world.cluster.forget(world.other_node, gone)
    world.cluster.server.delete_pod("shop", "gone-1")
    world.cluster.delete(f"/apis/{SECURITY}/namespaces/crowd/authorizationpolicies/nobody")
    known = world.names() | world.services()
    world.cluster.istiod.start()
    wait_for(lambda: world.ask(late.ip) == "ping", "the pod that nobody knew", 60, log=world.node.proxy_log)
    wait_for(lambda: "gone-1" not in world.names(), "the pod that has gone to be forgotten")
    wait_for(lambda: "crowd/nobody" not in world.cluster.policies(world.node), "no policy")
    assert known - {"gone-1"} <= world.names() | world.services()
    assert world.ask(VIP, 80) == "ping" and world.ask(world.alone.ip) == "ping"


def test_few_of_many_are_held(world):
    """Whatever was called until here."""
    names = world.names()
    assert names >= OWN and len(names) < 15 and not [n for n in names if n.startswith("crowd-")], names
    assert world.services() <= {"cart", "own"}
    assert 0 < world.metric("bruma_xds_looked_up") < 30
    assert len(world.names(world.other_node)) > CROWD


def test_one_of_the_crowd_brings_itself_alone(world):
    """By its address; it is an endpoint of services of which the others are, too."""
    world.ask("10.200.0.7")
    wait_for(lambda: "crowd-6" in world.names(), "that one")
    assert {n for n in world.names() if n.startswith("crowd-")} == {"crowd-6"}
    assert world.services() <= {"cart", "own"}


def test_what_is_not_used_is_left(world):
    node = world.node
    node.proxy.stop()
    world.cluster.start_node(node, agent=False, **SETTINGS, BRUMA_LOOKUP_IDLE="3s")
    wait_for(lambda: world.ask(VIP, 80) == "ping", "the service", 30)
    assert "cart-1" in world.names()
    wait_for(lambda: world.names() == OWN and not world.services(), "all of it to be left", 30)
    assert world.ask(VIP, 80) == "ping" and world.ask(world.alone.ip) == "ping"
