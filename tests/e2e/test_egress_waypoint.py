# SPDX-License-Identifier: Apache-2.0
"""A waypoint as egress gateway, a stock Envoy: what leaves for a ServiceEntry of any resolution is captured by its VIP
and goes through the waypoint, and nothing goes around it."""

import tempfile

import pytest
import yaml

from support.hostnames import Hosts, dnsmasq
from support.nodes.mesh import TRUST_DOMAIN, Mesh
from support.nodes.pod_programs import HTTP_APP
from support.proxies import waypoint as support
from support.proxies.waypoint_shop import (
    DESTINATION,
    SHOP,
    VIP4,
    VIP6,
    WAYPOINT,
    named,
    one,
    publish,
    set_services,
    set_waypoints,
)
from support.system import wait_for

NAME = "api.external.test"  # of the endpoint of `resolution: DNS`; it leads to where the waypoint goes too
HOST = "egress.test"  # of the waypoint, where it is known by a hostname

MEMBER = {f"demo/{SHOP}": {80: 8080}}


def endpoint(**where):
    return {"name": "external", "namespace": "demo", "protocol": "TCP", "services": MEMBER, **where}


# What istiod sends of a ServiceEntry: fields of its service, and of its endpoint if there is one. NONE is a service whose
# connections are passed on to where they were dialed; wildcards have only a VIP, whatever resolves them.
def resolutions(m):
    prefixes = [{"network": "", "cidr": VIP4 + "/30"}, {"network": "", "cidr": VIP6 + "/126"}]
    wildcard = {"hostname": "*.external.test"}
    none = {"loadBalancer": {"routingPreferences": [], "mode": "Passthrough"}}
    return {
        "STATIC": ({}, endpoint(workloadIps=[m.v1.ip, m.v1.ip6])),
        "DNS": ({}, endpoint(hostname=NAME)),
        "NONE": (none, None),
        "NONE with prefixes": ({**none, "vips": [], "cidrVips": prefixes}, None),
        "NONE with a wildcard": ({**none, **wildcard}, None),
        "DYNAMIC_DNS": (wildcard, None),
    }


RESOLUTIONS = [
    "STATIC",
    "DNS",
    "NONE",
    "NONE with prefixes",
    "NONE with a wildcard",
    "DYNAMIC_DNS",
]


def egress_sample(directory):
    """The page's configuration, but what it serves is outside of the mesh: plain TCP."""
    with open(support.SAMPLE) as f:
        config = yaml.safe_load(support.replace(f.read(), {"directory": directory}))
    resources = config["static_resources"]
    resources["listeners"] = [x for x in resources["listeners"] if x["name"] != "connect_originate"]
    resources["clusters"] = [x for x in resources["clusters"] if x["name"] != "connect_originate"]
    for cluster in resources["clusters"]:
        if cluster["name"].startswith("shop-"):
            (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            internal = endpoint["endpoint"]["address"]["envoy_internal_address"]
            ip, port = internal["endpoint_id"].split(":")
            endpoint["endpoint"]["address"] = {"socket_address": {"address": ip, "port_value": int(port)}}
            del cluster["transport_socket"], endpoint["metadata"]
    path = f"{directory}/egress.yaml"
    with open(path, "w") as f:
        yaml.safe_dump(config, f)
    return path


def egress(m, program):
    directory = tempfile.mkdtemp(prefix="egress", dir=m.dir)
    support.certificate(
        directory, f"{m.nodes[0].run_dir}/control", m.ca_key, f"spiffe://{TRUST_DOMAIN}/ns/demo/"
    )
    return support.Waypoint(
        program,
        directory,
        m.waypoint.netns,
        m.waypoint.node.cgroup,
        sample=egress_sample(directory),
        vip4=VIP4,
        vip6=VIP6,
        v1=m.v1.ip,
        v2=m.v2.ip,
    )


@pytest.fixture(scope="module")
def mesh(program):
    with Mesh(nodes=2) as m:
        m.web, m.waypoint = m.pod("web"), m.pod("waypoint", node=1)
        # outside of the mesh: what is external to it
        m.v1, m.v2, m.resolver = (m.pod(n, node=1, namespace="outside") for n in ("v1", "v2", "resolver"))
        for pod in (m.v1, m.v2, m.resolver, m.waypoint):
            pod.outside = True
        m.proxy_env.update({"BRUMA_NAME_SERVERS": f"{m.resolver.ip}:5300", "BRUMA_NAME_TIMEOUT": "1500ms"})
        m.hosts = Hosts(m)
        m.hosts.set(**{NAME: [m.v1.ip, m.v1.ip6], HOST: [m.waypoint.ip, m.waypoint.ip6]})
        dnsmasq(m)
        set_services(m, waypoint=DESTINATION)
        set_waypoints(m, m.waypoint)
        m.start()
        m.v1.app, m.v2.app = m.v1.server(HTTP_APP, "v1"), m.v2.server(HTTP_APP, "v2")
        m.envoy = egress(m, program)
        try:
            m.envoy.start()
            yield m
        finally:
            m.envoy.stop()


def entry(mesh, resolution, waypoint, **of_waypoint):
    service, workload = resolutions(mesh)[resolution]
    set_services(mesh, waypoint=waypoint, **service)
    set_waypoints(mesh, mesh.waypoint, **of_waypoint)
    if workload:
        mesh.extra.append(workload)

    def waypoint_known(dump):
        own = next((s for s in dump["services"] if s["name"] == "waypoint"), {})
        (workload,) = [w for w in dump["workloads"] if w["name"] == "waypoint"]
        return bool(own.get("endpoints")) == ("services" not in of_waypoint) and workload.get(
            "hostname"
        ) == of_waypoint.get("hostname")

    def known(dump):
        services = [s for s in dump["services"] if s["name"] == "shop"]
        return (
            services
            and services[0]["hostname"] == mesh.services[0]["hostname"]
            and bool(services[0].get("cidrVips")) == ("cidrVips" in service)
            and ("Passthrough" in str(services[0])) == ("loadBalancer" in service)
            and ("external" in str(dump["workloads"])) == bool(workload)
            and services[0]["waypoint"]["destination"] == waypoint["destination"]
            and waypoint_known(dump)
        )

    publish(mesh, known)


def reached(mesh):
    return mesh.v1.app.text() + mesh.v2.app.text()


@pytest.mark.parametrize("vip", [VIP4, VIP6])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_service_entry_goes_through_its_waypoint(mesh, resolution, vip):
    entry(mesh, resolution, DESTINATION)
    queries, lines = mesh.hosts.queries(NAME, "A"), len(mesh.envoy.lines())
    for _ in range(4):
        assert one(mesh.web, vip)[0] == 200
    wait_for(lambda: len(mesh.envoy.lines()) == lines + 4, "the waypoint's lines")
    shown = f"[{vip}]:80" if ":" in vip else f"{vip}:80"
    for line in mesh.envoy.lines()[lines:]:
        assert line.startswith(mesh.web.identity) and f"for {shown} -> 200" in line
    assert mesh.hosts.queries(NAME, "A") == queries, "the name is the waypoint's affair"


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_waypoint_that_is_known_by_a_hostname(mesh, resolution):
    entry(mesh, resolution, named(f"demo/{HOST}"), workloadIps=[], hostname=HOST, services={})
    lines = len(mesh.envoy.lines())
    assert one(mesh.web, VIP4)[0] == 200
    wait_for(lambda: len(mesh.envoy.lines()) == lines + 1, "the waypoint's line")


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_nothing_goes_around_a_waypoint_that_is_not_there(mesh, resolution):
    """Its service has no endpoint; its name does not exist; it refuses."""
    entry(mesh, resolution, DESTINATION, services={})
    for way, reason in (
        (named(f"demo/{WAYPOINT}"), "waypoint_unresolved"),
        (named("demo/gone.test"), "name_not_found"),
    ):
        fields = {"workloadIps": [], "hostname": "gone.test"} if reason == "name_not_found" else {}
        entry(mesh, resolution, way, services={}, **fields)
        before, failures = reached(mesh), mesh.nodes[0].failures(reason)
        assert one(mesh.web, VIP4)[0] == 0
        assert mesh.nodes[0].failures(reason) > failures
        assert reached(mesh) == before
    entry(mesh, resolution, DESTINATION)
    mesh.envoy.stop()
    try:
        before = reached(mesh)
        assert one(mesh.web, VIP4)[0] == 0
        assert reached(mesh) == before
    finally:
        mesh.envoy.start()
    # the waypoint's listener is a moment younger than what the proxy has left alone
    wait_for(lambda: one(mesh.web, VIP4)[0] == 200, "the waypoint to serve again")


def test_explain_names_the_waypoint_and_its_address(mesh):
    entry(mesh, "DNS", named(f"demo/{HOST}"), workloadIps=[], hostname=HOST, services={})
    assert one(mesh.web, VIP4)[0] == 200
    said = mesh.nodes[0].ctl("explain", "demo/web", f"{VIP4}:80").stdout
    assert f"to the waypoint demo/{HOST}" in said and mesh.waypoint.ip in said, said
    assert NAME not in said
