# SPDX-License-Identifier: Apache-2.0
"""XDS_ON_DEMAND: what connections need is asked of the control plane on first use, waited for, remembered and left again
(contract 1.7). Against the control plane of the tests, which answers as istiod does, and the agent's own."""

import re
import time

import pytest

from support.hostnames import MANY
from support.nodes.direct import WAYS, said_of, way_out
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.system import wait_for
from support.xds.control_plane import ADDRESS, AUTHORIZATION
from support.xds.on_demand_plane import OnDemandPlane
from support.xds.plane import END
from support.xds.site import CLIENT, Site

ABSENT, TIMEOUT, REFRESH = 2, 3, 2  # seconds
SETTINGS = {
    "XDS_ON_DEMAND": "true",
    "ISTIO_META_DNS_CAPTURE": "false",
    "BRUMA_LOOKUP_TIMEOUT": f"{TIMEOUT}s",
    "BRUMA_LOOKUP_ABSENT": f"{ABSENT}s",
    "BRUMA_LOOKUP_REFRESH": f"{REFRESH}s",
}


class OnDemandSite(Site):
    """web and shop are pods of the node; away is a server outside of the mesh, of which the control plane may tell."""

    def __init__(self, **settings):
        super().__init__()
        self.plane.stop()
        self.plane = OnDemandPlane(
            f"{self.mesh.dir}/on-demand", self.node.netns, port=16013, node=self.node.name
        )
        self.mesh.proxy_env.update({**self.plane.env(), **SETTINGS, **settings})
        self.mesh.agent_options = WAYS
        self.away = self.mesh.pod("away", namespace="outside")
        self.alone = self.mesh.pod("alone", namespace="outside")
        self.away.outside = self.alone.outside = True
        self.start()
        self.alone.server(ECHO, "8080")
        self.app = self.away.server(ECHO, "8080")
        self.count = 0

    def vip(self):
        """A new one: no test knows another one's."""
        self.count += 1
        return f"10.96.7.{self.count}"

    def service(self, name, vip, *members, **fields):
        """With the workload `away` as its endpoint, if there are no others."""
        hostname = f"{name}.demo.svc.cluster.local"
        items = members or [
            self.plane.workload(
                f"{name}-away", self.away.ip, services={hostname: [(8080, 8080)]}, node="elsewhere"
            )
        ]
        service = self.plane.service(hostname, vip, ports=((8080, 8080),), **fields)
        self.plane.set(service, *items)
        return f"demo/{hostname}"

    def line(self, *words):
        return wait_for(
            lambda: [x for x in self.node.access_log() if all(w in x for w in words)], f"a line with {words}"
        )[-1]

    def counter(self, name):
        found = re.search(rf"^{name} (\d+)$", self.node.metrics(), re.M)
        return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def site():
    s = OnDemandSite()
    yield s
    s.plane.stop()
    s.mesh.stop()


@pytest.fixture
def other_site():
    sites = []

    def make(**settings):
        sites.append(OnDemandSite(**settings))
        return sites[-1]

    yield make
    for s in sites:
        s.plane.stop()
        s.mesh.stop()


def test_nothing_is_subscribed_to_at_first_but_policies(site):
    """The plane refuses a stream that wants everything; the node's own pods come unasked."""
    first = site.stream().first(ADDRESS)
    assert list(first.resource_names_subscribe) == list(first.resource_names_unsubscribe) == ["*"]
    assert not site.stream().first(AUTHORIZATION).resource_names_unsubscribe
    site.plane.set(site.plane.workload("far", "10.9.9.9", node="elsewhere"))
    assert site.ping() == "ping"
    assert set(site.workloads()) == {"web", "shop"}


def test_a_service_is_looked_up_by_its_vip_once_for_all_who_wait(site):
    vip = site.vip()
    name = site.service("many", vip)
    assert site.web.python(MANY, vip, 8080, 50).strip() == "50"
    assert site.plane.keys().count(f"/{vip}") == 1
    assert name in site.plane.subscribed() and "many-away" in site.workloads()
    assert 'dst.workload="many-away"' in site.line("many.demo.svc.cluster.local", "connection complete")


def test_changes_come_by_themselves_and_new_endpoints_by_asking_again(site):
    vip, host = site.vip(), "change.demo.svc.cluster.local"
    site.service("change", vip)
    assert site.ping(vip) == "ping"
    new = site.plane.workload(
        "change-away", site.away.ip, services={host: [(8080, 8080)]}, node="elsewhere", workload_name="other"
    )
    site.plane.set(new)
    wait_for(lambda: site.workloads()["change-away"].get("workloadName") == "other", "the change")
    # a control plane does not tell of this one, until the service is asked for again, which no connection waits for
    site.plane.set(site.plane.workload("change-2", site.away.ip6, services={host: [(8080, 8080)]}))
    site.plane.remove("Kubernetes//Pod/demo/change-away")
    wait_for(lambda: site.ping(vip) == "ping" and "change-2" in site.workloads(), "the new endpoint")
    assert site.plane.keys().count(f"/{vip}") >= 2
    site.plane.remove("Kubernetes//Pod/demo/change-2")


def test_what_is_left_takes_nothing_else_with_it(site):
    """To be asked for again it is left first; to who only leaves istiod says that all else is removed."""
    one, other = site.vip(), site.vip()
    site.service("one", one)
    site.service("other", other)
    assert site.ping(one) == "ping" and site.ping(other) == "ping"
    before = set(site.workloads())
    assert before >= {"web", "shop", "one-away", "other-away"}
    left = len(site.plane.left())
    wait_for(lambda: site.ping(one) == "ping" and site.plane.keys().count(f"/{one}") >= 2, "another look-up")
    assert len(site.plane.left()) > left
    site.plane.set(site.of(site.shop, workload_name="changed"))
    wait_for(lambda: site.workloads()["shop"].get("workloadName") == "changed", "an answer behind that one")
    assert set(site.workloads()) >= before
    site.plane.set(site.of(site.shop))


def test_a_workload_is_looked_up_by_its_address(site):
    site.plane.set(site.plane.workload("by-address", site.alone.ip6, node="elsewhere"))
    assert site.ping(site.alone.ip6) == "ping"
    assert 'dst.workload="by-address"' in site.line(f"[{site.alone.ip6}]:8080", "connection complete")
    assert site.plane.keys().count(f"/{site.alone.ip6}") == 1


def test_an_alias_with_the_length_of_an_address_is_the_address(site):
    vip = site.vip()
    site.service("length", f"{vip}/32")
    assert site.ping(vip) == "ping"


def test_what_is_not_there_is_remembered_for_a_moment(site):
    """A connection to the outside waits for the answer once, and then for none. It never goes past the proxy, which asks."""
    key = f"/{site.alone.ip}"
    assert said_of(site.web)["outside"] == said_of(site.web)["inbound"] == "on_demand"
    assert way_out(site.web, site.alone.ip) == "proxy"
    assert site.plane.keys().count(key) == 1
    site.plane.answers = False
    try:
        assert site.ping(site.alone.ip) == "ping", "it is known that there is nothing"
    finally:
        site.plane.answers = True
    time.sleep(ABSENT + 0.5)
    assert site.ping(site.alone.ip) == "ping"
    assert site.plane.keys().count(key) == 2 and key in site.plane.left()


def test_what_comes_into_being_is_found_in_time(site):
    vip = site.vip()
    assert site.ping(vip, seconds=1) != "ping"
    site.service("late", vip)
    began = time.monotonic()
    wait_for(lambda: site.ping(vip, seconds=1) == "ping", "the service")
    assert time.monotonic() - began < ABSENT + 2


def test_without_an_answer_it_is_refused_and_not_passed_on(site):
    """Nobody knows where the address belongs: it may be behind a waypoint."""
    vip = site.vip()
    site.plane.answers = False
    before = site.node.failures("lookup_timeout")
    try:
        began = time.monotonic()
        assert site.ping(vip) != "ping"
        assert TIMEOUT - 0.2 < time.monotonic() - began < TIMEOUT + 3
        assert site.node.failures("lookup_timeout") == before + 1
        assert site.ping() == "ping", "what is known goes on"
    finally:
        site.plane.answers = True


def test_who_waits_while_the_stream_ends_is_served_by_the_next_one(site):
    vip = site.vip()
    name = site.service("again", vip)
    held = site.plane.subscribed() & set(site.plane.resources[ADDRESS])
    site.plane.answers = False
    waiting = site.web.popen("/usr/bin/python3", "-c", MANY, vip, "8080", "5")
    site.plane.wait_asked(f"/{vip}")
    streams = len(site.plane.streams)
    site.plane.answers = True
    site.stream().out.put(END)
    wait_for(lambda: len(site.plane.streams) > streams and site.stream().first(ADDRESS), "a new stream")
    assert waiting.wait(20) == 0 and waiting.text().strip() == "5"
    versions = {v.key: v.value for v in site.stream().first(ADDRESS).initial_resource_versions}
    assert versions[f"/{vip}"] == "", "a name that was asked for and not received"
    assert {n: versions[n] for n in held} == {n: site.plane.resources[ADDRESS][n][0] for n in held}
    assert name in site.plane.subscribed()


def test_what_is_unchanged_is_not_sent_again_and_still_released(site):
    """The resource is here for another key's sake; the new stream's answer leaves it out."""
    vip = site.vip()
    host = "both.demo.svc.cluster.local"
    site.service("both", vip)
    assert site.ping(vip) == "ping"
    assert "both-away" in site.workloads()
    # a second address of the same workload: nobody has asked for it
    item = site.plane.workload(
        "both-away", site.away.ip, "10.9.3.3", services={host: [(8080, 8080)]}, node="elsewhere"
    )
    site.plane.set(item)
    wait_for(lambda: "10.9.3.3" in str(site.workloads()["both-away"]), "the address")
    site.plane.answers = False
    waiting = site.web.popen("/usr/bin/python3", "-c", MANY, "10.9.3.3", "8080", "1")
    site.plane.wait_asked("/10.9.3.3")
    site.plane.answers = True
    failed = site.node.failures("lookup_timeout")
    site.stream().out.put(END)
    site.plane.wait_asked("/10.9.3.3", 2)
    waiting.kill()
    assert site.node.failures("lookup_timeout") == failed


def test_while_the_control_plane_is_away_what_was_answered_is_good(other_site):
    site = other_site()
    vip = site.vip()
    late = site.vip()
    site.service("kept", vip)
    site.service("late", late)
    assert site.ping(vip) == "ping" and site.ping(site.alone.ip) == "ping"
    site.plane.stop()
    time.sleep(ABSENT + 0.5)
    assert site.ping(vip) == "ping", "what is known"
    assert site.ping(site.alone.ip) == "ping", "what is known not to be there"
    began = time.monotonic()
    code = "import socket, sys; s = socket.create_connection((sys.argv[1], 8080)); s.sendall(b'x'); s.recv(1)"
    site.away.python(code, site.shop.ip)
    assert time.monotonic() - began < TIMEOUT, "a label is not waited for"
    assert site.ping(late, seconds=TIMEOUT + 3) != "ping", "nobody knows what it is"
    site.plane.start()
    wait_for(lambda: site.ping(late) == "ping", "the answer, once it is back")


@pytest.mark.parametrize("form", ["hostname", "address"])
def test_a_waypoint_is_looked_up_too_and_never_gone_around(site, form):
    """shop is the waypoint; its proxy looks up whether the address that the tunnel names is its own."""
    vip, way = site.vip(), site.vip()
    host = f"way-{form}.demo.svc.cluster.local"
    waypoint = site.plane.messages["istio.workload.GatewayAddress"](hbone_mtls_port=15008)
    if form == "hostname":
        waypoint.hostname.namespace, waypoint.hostname.hostname = "demo", host
    else:
        waypoint.address.address = bytes(map(int, way.split(".")))
    item = site.plane.service(f"behind-{form}.demo.svc.cluster.local", vip, ports=((8080, 8080),))
    item[1].service.waypoint.CopyFrom(waypoint)
    site.plane.set(item)
    before, reached = site.node.failures("waypoint_unresolved"), site.app.text()
    assert site.ping(vip, seconds=5) != "ping"
    assert site.node.failures("waypoint_unresolved") == before + 1 and site.app.text() == reached
    key = f"demo/{host}" if form == "hostname" else f"/{way}"
    assert site.plane.keys().count(key) == 1
    site.plane.set(
        site.plane.service(host, way, ports=((15008, 15008),)),
        site.of(site.shop, services={host: [(15008, 15008)]}),
    )
    wait_for(lambda: site.ping(vip) == "ping", "the way through the waypoint")
    assert f"dst.addr={site.shop.ip}:15008" in site.line(f"dst.hbone_addr={vip}:8080", 'direction="outbound"')
    site.plane.set(site.of(site.shop))


def test_the_source_of_what_comes_from_outside_is_looked_up(site):
    site.plane.set(site.plane.workload("caller", site.alone.ip, node="elsewhere"))
    time.sleep(ABSENT + 0.5)  # that there was nothing may be known
    code = "import socket, sys; s = socket.create_connection((sys.argv[1], 8080)); s.sendall(b'x'); s.recv(1)"
    site.alone.python(code, site.shop.ip)
    assert 'src.workload="caller"' in site.line('direction="inbound"', f"src.addr={site.alone.ip}:")
    site.plane.remove("Kubernetes//Pod/demo/caller")


def test_what_is_not_used_is_left_and_asked_for_anew(other_site):
    site = other_site(BRUMA_LOOKUP_IDLE="2s")
    vip = site.vip()
    name = site.service("idle", vip)
    assert site.ping(vip) == "ping"
    uid = "Kubernetes//Pod/demo/idle-away"
    assert uid in site.plane.subscribed()
    wait_for(lambda: {f"/{vip}", name, uid} <= set(site.plane.left()), "all of it to be left")
    wait_for(lambda: set(site.workloads()) == {"web", "shop"}, "it to be forgotten")
    assert site.plane.subscribed() <= {"Kubernetes//Pod/demo/web", "Kubernetes//Pod/demo/shop"}
    assert site.counter("bruma_xds_left_total") >= 2 and site.counter("bruma_xds_looked_up") == 0
    # what happened meanwhile is not missed
    site.plane.set(site.plane.workload("idle-away", "10.9.4.4", services={}, node="elsewhere"))
    site.service(
        "idle",
        vip,
        site.plane.workload(
            "idle-new", site.away.ip, services={"idle.demo.svc.cluster.local": [(8080, 8080)]}
        ),
    )
    assert site.ping(vip) == "ping"
    assert 'dst.workload="idle-new"' in site.line("idle-new", "connection complete")


def test_keys_are_bounded(other_site):
    site = other_site(BRUMA_MAX_LOOKUPS="4")
    for i in range(6):
        vip = site.vip()
        site.service(f"bound-{i}", vip)
        assert site.ping(vip) == "ping"
    assert site.counter("bruma_xds_looked_up") <= 4 and site.counter("bruma_xds_lookups_replaced_total") >= 2
    site.plane.answers = False
    waiting = [
        site.web.popen("/usr/bin/python3", "-c", MANY, f"10.96.8.{i}", "8080", "1") for i in range(1, 5)
    ]
    for i in range(1, 5):
        site.plane.wait_asked(f"/10.96.8.{i}")
    before = site.node.failures("lookup_limit")
    assert site.ping("10.96.8.9") != "ping"
    assert site.node.failures("lookup_limit") == before + 1
    for p in waiting:
        p.wait(20)


def test_a_proxy_that_would_answer_dns_or_knows_no_node_does_not_start(site):
    p = site.node.start_proxy(wait=False, ISTIO_META_DNS_CAPTURE="true")
    assert p.wait() == 1 and "XDS_ON_DEMAND: the proxy cannot answer DNS too" in p.text()
    p = site.node.start_proxy(wait=False, NODE_NAME="")
    assert p.wait() == 1 and "XDS_ON_DEMAND: NODE_NAME is not set" in p.text()


def test_with_the_agents_own_control_plane():
    """Two nodes: tunnels both ways, a service, an address outside."""
    with Mesh(nodes=2, proxy_env=SETTINGS) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.shop.services = {"demo/shop.demo.svc.cluster.local": {80: 8080}}
        m.services.append(
            {
                "name": "shop",
                "namespace": "demo",
                "hostname": "shop.demo.svc.cluster.local",
                "vips": ["/10.96.0.50"],
                "ports": {80: 8080},
            }
        )
        m.start()
        m.shop.server(ECHO, "8080")
        node = m.nodes[0]
        assert {w["name"] for w in node.config_dump()["workloads"]} == {"web"}
        assert m.web.python(CLIENT, m.shop.ip, 8080).strip() == "ping"
        assert m.web.python(CLIENT, "10.96.0.50", 80).strip() == "ping"
        lines = wait_for(
            lambda: [x for x in node.access_log("connection complete") if 'dst.workload="shop"' in x][1:],
            "both lines",
        )
        assert all(f'dst.identity="{m.shop.identity}"' in x for x in lines)
        inbound = wait_for(lambda: m.nodes[1].access_log('direction="inbound"'), "the other side's line")
        assert 'src.workload="web"' in inbound[0] and f'src.identity="{m.web.identity}"' in inbound[0]
