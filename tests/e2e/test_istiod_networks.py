# SPDX-License-Identifier: Apache-2.0
"""Two networks, each with a stock istiod (BRUMA_ISTIOD, BRUMA_ISTIO_CHARTS, BRUMA_KUBE) of one mesh, and a stock Envoy as the
gateway of the second, with a certificate of istiod's: what istiod says of the other network, that bytes pass through the gateway
that it names, and who serves when endpoints come and go.

    web, cart-near         home: what it can reach of the other network is the gateway alone
    cart-far-1, -2, -3     away: WorkloadEntries in the home network, pods in their own
    eastwest               away, outside of the mesh: Envoy
"""

import shutil

import pytest

from support import network
from support.hostnames import MANY
from support.kube.istiod import SYSTEM, missing
from support.kube.istiod_world import AMBIENT, CP, Cluster
from support.networks import Gateway
from support.nodes.pod_programs import SEND, SINK
from support.proxies import waypoint
from support.system import wait_for
from support.workspace import Workspace

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

GATEWAY = "gateway.networking.k8s.io/v1"
HOST, VIP = "cart.shop.svc.cluster.local", "10.96.50.1"
PORTS = {80: 8080, 81: 9000}
FAR = 3
WEB, CART = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/cart"
# The service of all clusters is one that has the label istio.io/global, as in Istio's profile for ambient mode.
GLOBAL = {"istio.io/global": "true"}
MESH = """
serviceScopeConfigs:
- servicesSelector:
    matchExpressions: [{key: istio.io/global, operator: In, values: ["true"]}]
  scope: GLOBAL
"""
ISTIOD = {"mesh": MESH, "AMBIENT_ENABLE_MULTI_NETWORK": "true"}


class Two:
    def __init__(self, work, envoy):
        self.work, self.envoy = work, envoy
        self.home = Cluster(work, nodes=1, **ISTIOD)
        self.away = Cluster(work, nodes=1, name="away-", beside=self.home, CLUSTER_ID="away", **ISTIOD)
        for cluster, name in ((self.home, "home"), (self.away, "away")):
            server = cluster.server
            server.make_namespace(SYSTEM, {"topology.istio.io/network": name})
            server.make_namespace("shop", AMBIENT)
            for account in ("web", "cart"):
                server.create("v1", "ServiceAccount", account, "shop")
            cluster.service("shop", "cart", VIP, {"app": "cart"}, PORTS, labels=GLOBAL)
            cluster.start_node(
                cluster.nodes[0], NETWORK=name, BRUMA_CONNECT_TIMEOUT="2s", BRUMA_EJECTION_TIME="1s"
            )
        self.node, self.far_node = self.home.nodes[0], self.away.nodes[0]
        self.web = self.home.pod(self.node, "shop", "web-1", 10, account="web", labels={"app": "web"})
        self.echoes = {}
        self.far = [self.server(self.away, f"cart-far-{n}", 10 + n) for n in range(1, FAR + 1)]
        for pod in self.far:
            pod.server(SINK, "9000")
            work.defer(pod.kill_programs)
        for account in ("eastwest", "other"):
            self.away.server.create("v1", "ServiceAccount", account, SYSTEM)
        self.pod = self.away.pod(
            self.far_node,
            SYSTEM,
            "eastwest",
            30,
            account="eastwest",
            labels={"istio.io/dataplane-mode": "none"},
        )
        self.link()
        self.announce()
        self.home.hbone(self.web)
        self.away.hbone(*self.far)
        self.gateway = self.envoy_as("eastwest", self.pod.name)

    def server(self, cluster, name, host):
        """A pod of the service."""
        pod = cluster.pod(cluster.nodes[0], "shop", name, host, account="cart", labels={"app": "cart"})
        self.echoes[name] = cluster.server_in(pod)
        return pod

    def link(self):
        """Between the nodes. The home network knows the way to the gateway alone."""
        network.veth(self.node.netns, "wan", self.far_node.netns, "wan")
        for node, address, there, via in (
            (self.node, "203.0.113.1", self.pod.ip, "203.0.113.2"),
            (self.far_node, "203.0.113.2", f"{self.web.ip.rsplit('.', 1)[0]}.0/24", "203.0.113.1"),
        ):
            network.address(node.netns, "wan", f"{address}/24")
            network.route(node.netns, there, via)

    def announce(self):
        """To the home network: the endpoints over there, and the gateway to them."""
        server, address = self.home.server, [{"type": "IPAddress", "value": self.pod.ip}]
        for pod in self.far:
            server.create(
                "networking.istio.io/v1",
                "WorkloadEntry",
                pod.name,
                "shop",
                metadata={"labels": {"app": "cart"}},
                spec={
                    "address": pod.ip,
                    "network": "away",
                    "serviceAccount": "cart",
                    "labels": {"app": "cart"},
                },
            )
        listener = {
            "name": "cross-network",
            "port": 15008,
            "protocol": "HBONE",
            "tls": {"mode": "Passthrough"},
        }
        server.create(
            GATEWAY,
            "Gateway",
            "away",
            SYSTEM,
            metadata={
                "labels": {"topology.istio.io/network": "away"},
                "annotations": {"gateway.istio.io/service-account": "eastwest"},
            },
            spec={"gatewayClassName": "istio-remote", "addresses": address, "listeners": [listener]},
        )
        server.api(
            "PATCH",
            f"/apis/{GATEWAY}/namespaces/{SYSTEM}/gateways/away/status",
            {"status": {"addresses": address}},
            "application/merge-patch+json",
        )

    def envoy_as(self, account, pod=None):
        """The gateway, with a certificate that istiod has given to that account."""
        directory = self.work.path(f"envoy-{account}")
        self.away.certificate(SYSTEM, account, pod, directory)
        gateway = Gateway(
            self.envoy, self.pod, directory, [(p.ip, 15008) for p in self.far], host=HOST, ports=PORTS
        )
        self.work.defer(gateway.stop)
        return gateway

    # ---- what is seen ----

    def ask(self):
        return self.home.ping(self.web, VIP, 80)

    def remote(self):
        """The workload that stands for the endpoints of the other network, as the home proxy knows it."""
        workloads = self.home.dump(self.node)["workloads"]
        return next((w for w in workloads if "/SplitHorizonWorkload/" in w["uid"]), None)

    def capacity(self):
        return (self.remote() or {}).get("capacity")

    def service(self):
        return self.home.service_of(self.node, "cart")

    def endpoints(self):
        return len((self.service() or {}).get("endpoints", {}))

    def served_by(self, count=10):
        """Who answers so many connections."""
        before = {name: p.text().count("FROM") for name, p in self.echoes.items()}
        for _ in range(count):
            assert self.ask() == "ping"
        return {name for name, p in self.echoes.items() if p.text().count("FROM") > before[name]}

    def lines(self):
        return self.node.access_log("")


@pytest.fixture(scope="module")
def two(request, build):
    path, why = waypoint.program(build)
    if not path:
        pytest.skip(why)
    w = Workspace(build)
    try:
        yield Two(w, path)
    finally:
        errors = w.close()
        if not request.session.testsfailed:
            shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


@pytest.fixture
def through(two):
    """The gateway runs, and the service is served through it."""
    if not (two.gateway.process and two.gateway.process.alive()):
        two.gateway.start()
    wait_for(lambda: two.ask() == "ping", "the service to be served", 40, log=two.node.proxy_log)


def test_what_istiod_says_of_the_other_network(two):
    workload = wait_for(two.remote, "the endpoints of the other network", 30, log=two.node.proxy_log)
    assert workload["network"] == "away" and workload["capacity"] == FAR and not workload["workloadIps"]
    assert workload["protocol"] == "HBONE" and workload["services"] == [f"shop/{HOST}"]
    assert workload["networkGateway"] == {"destination": f"away/{two.pod.ip}", "hboneMtlsPort": 15008}
    gateway = wait_for(
        lambda: next(
            (w for w in two.home.dump(two.node)["workloads"] if w["uid"].startswith("NetworkGateway/")), None
        ),
        "the gateway",
    )
    assert gateway["network"] == "away" and gateway["workloadIps"] == [two.pod.ip]
    assert (gateway["namespace"], gateway["serviceAccount"]) == (SYSTEM, "eastwest")
    service = wait_for(
        lambda: (s := two.service()) and s["subjectAltNames"] and s, "the service's identities"
    )
    assert service["subjectAltNames"] == [CART]


def test_the_gateway_that_istiod_names_is_dialed(two):
    """Nobody answers there yet: the log says where it went."""
    wait_for(two.remote, "the endpoints of the other network", 30)
    assert two.ask() == "ConnectionResetError"
    wait_for(
        lambda: two.home.access(
            two.node, f"east-west gateway {two.pod.ip}:15008", f"dst.hbone_addr={HOST}:80"
        ),
        "the gateway in the log",
    )


def test_bytes_pass_through_the_gateway(two, through):
    """Both nodes say who it was, by certificates of two istiods; the gateway is in between."""
    count = two.gateway.stat("connect_terminate.downstream_rq_total")
    assert count >= 1 and two.served_by(1) <= set(two.echoes)
    ours = wait_for(
        lambda: two.home.access(
            two.node, "connection complete", f"dst.hbone_addr={HOST}:80", f'dst.identity="{CART}"'
        ),
        "our line",
    )
    assert ours["dst.addr"] == f"{two.pod.ip}:15008" and ours["dst.service"] == HOST
    assert (ours["src.identity"], ours["dst.identity"]) == (WEB, CART)
    theirs = wait_for(
        lambda: two.away.access(
            two.far_node, "connection complete", 'direction="inbound"', f'src.identity="{WEB}"'
        ),
        "their line",
    )
    assert (theirs["src.identity"], theirs["dst.identity"]) == (WEB, CART)
    assert theirs["dst.workload"] in {p.name for p in two.far}
    assert theirs["src.addr"].startswith(f"{two.pod.ip}:")
    said = two.node.ctl("explain", "shop/web-1", f"{VIP}:80").stdout
    assert f'endpoints in network "away", of weight {FAR}' in said, said
    assert (
        f"to the gateway away/{two.pod.ip}, port 15008, which must be "
        f"spiffe://cluster.local/ns/{SYSTEM}/sa/eastwest" in said
    ), said


def test_sixteen_mebibytes_arrive_intact(two, through):
    assert two.web.python(SEND, VIP, 81, 16, timeout=120).strip() == "same"


def test_sixty_connections_at_once_are_served_by_several_endpoints(two, through):
    before = {name: p.text().count("FROM") for name, p in two.echoes.items()}
    assert two.web.python(MANY, VIP, "80", "60").strip() == "60"
    more = {name: p.text().count("FROM") - before[name] for name, p in two.echoes.items()}
    assert sum(more.values()) == 60 and sum(n > 0 for n in more.values()) >= 2, more


def test_another_identity_than_istiod_names_is_refused(two, through):
    """Envoy with a certificate that the same istiod has given to another account."""
    impostor = two.envoy_as("other")
    two.gateway.stop()
    try:
        impostor.start()
        before = len(two.lines())
        wait_for(
            lambda: (
                two.ask() != "ping"
                and [x for x in two.lines()[before:] if "peer_identity_mismatch" in x and "/sa/other" in x]
            ),
            "the other identity to be refused",
        )
        assert not [x for x in two.lines()[before:] if "connection complete" in x and "error=" not in x]
    finally:
        impostor.stop()


def test_the_gateway_gone_and_back(two, through):
    two.gateway.kill()
    before = len(two.lines())
    assert two.ask() in ("ConnectionResetError", "closed"), "not gone around"
    wait_for(
        lambda: [x for x in two.lines()[before:] if f"east-west gateway {two.pod.ip}:15008" in x], "the line"
    )
    two.gateway.start()
    wait_for(lambda: two.ask() == "ping", "the service to be served again")


# ---- with an endpoint in the home network (TestMulticlusterFailover) ----


@pytest.fixture(scope="module")
def near(two):
    pod = two.server(two.home, "cart-near", 11)
    two.home.hbone(pod)
    wait_for(lambda: two.endpoints() == 2, "both networks' endpoints")
    return pod


@pytest.fixture
def own_first(two):
    """The service's trafficDistribution, as people write it."""

    def prefer(value):
        two.home.server.api(
            "PATCH",
            "/api/v1/namespaces/shop/services/cart",
            {"spec": {"trafficDistribution": value}},
            "application/merge-patch+json",
        )

    prefer("PreferSameZone")
    wait_for(lambda: preferences(two)[:1] == ["Network"], "istiod to prefer the own network")
    yield
    prefer(None)
    wait_for(lambda: not preferences(two), "istiod to prefer nothing")


def preferences(two):
    """What istiod says of the service's endpoints: which come first."""
    balancer = (two.service() or {}).get("loadBalancer") or {}
    return balancer.get("routingPreferences", []) if balancer.get("mode") == "Failover" else []


def test_without_preferences_both_networks_serve(two, through, near):
    """One endpoint here and three there, all of one weight."""
    served = two.served_by(40)
    assert near.name in served and served & {p.name for p in two.far}


def test_the_own_network_first_and_the_other_one_while_its_endpoint_is_not_ready(
    two, through, near, own_first
):
    far = {p.name for p in two.far}
    assert two.served_by() == {near.name}
    two.home.server.set_status("shop", near.name, near.ips, ready=False)
    try:
        wait_for(lambda: two.served_by(1) <= far, "the other network to serve")
        assert two.served_by() <= far
    finally:
        two.home.server.set_status("shop", near.name, near.ips)
    wait_for(lambda: two.served_by(1) == {near.name}, "the own network to serve again")
    assert two.served_by() == {near.name}


def test_the_other_network_takes_over_before_istiod_knows(two, through, near, own_first):
    """The application has gone, and the pod is said to be ready."""
    assert two.served_by(1) == {near.name}
    two.echoes[near.name].kill()
    try:
        assert two.served_by() <= {p.name for p in two.far}
    finally:
        two.echoes[near.name] = two.home.server_in(near)
    wait_for(lambda: two.served_by(1) == {near.name}, "the own network to serve again")


def test_the_last_endpoint_here_is_deleted_and_another_one_comes(two, through, near, own_first):
    assert two.served_by(1) == {near.name}
    two.echoes.pop(near.name).kill()
    two.home.forget(two.node, near)
    two.home.server.delete_pod("shop", near.name)
    wait_for(lambda: two.endpoints() == 1, "the endpoint to be forgotten")
    assert two.served_by() <= {p.name for p in two.far}
    next_one = two.server(two.home, "cart-near-2", 12)
    two.home.hbone(next_one)
    wait_for(lambda: two.served_by(1) == {next_one.name}, "the new endpoint to serve")
    assert two.served_by() == {next_one.name}


def test_istiod_away_does_not_end_it(two, through):
    """Of the home network: what is known serves on."""
    two.home.istiod.stop()
    try:
        assert two.served_by(5)
        two.gateway.kill()
        two.gateway.start()
        assert two.served_by(5)
    finally:
        two.home.istiod.start()
    wait_for(lambda: two.remote() and two.ask() == "ping", "the service to be served", 60)


def test_istiod_reads_the_other_cluster_itself(two, through):
    """By its API server, instead of WorkloadEntries: pods over there that come and go are counted."""
    network.veth(two.home.cp, "away", two.away.cp, "home")
    network.address(two.home.cp, "away", "203.0.113.65/30")
    network.address(two.away.cp, "home", "203.0.113.66/30")
    api = CP.format(two.far_node.number)
    network.route(two.home.cp, f"{api}/32", "203.0.113.66")
    two.home.istiod.read_cluster("away", two.away.server, f"https://{api}:{two.away.server.port}")
    wait_for(lambda: (two.capacity() or 0) > FAR, "pods beside the entries", 60)
    for pod in two.far:
        two.home.delete(f"/apis/networking.istio.io/v1/namespaces/shop/workloadentries/{pod.name}")
    wait_for(lambda: two.capacity() == FAR, "the pods alone")
    assert two.service()["subjectAltNames"] == [CART] and two.ask() == "ping"
    more = two.server(two.away, "cart-far-4", 14)
    two.away.hbone(more)
    wait_for(lambda: two.capacity() == FAR + 1, "the new one")
    two.echoes.pop(more.name).kill()
    two.away.forget(two.far_node, more)
    two.away.server.delete_pod("shop", more.name)
    wait_for(lambda: two.capacity() == FAR, "one less")
    assert two.served_by(5)
