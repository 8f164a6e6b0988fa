# SPDX-License-Identifier: Apache-2.0
"""A waypoint that has a hostname: it is resolved as an endpoint is, and never gone around."""

import pytest

from support.hostnames import Hosts, dnsmasq
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import HTTP_APP
from support.proxies.waypoint_shop import (
    SHOP,
    VIP4,
    VIP6,
    WAYPOINT,
    envoy,
    named,
    one,
    publish,
    set_services,
    set_waypoints,
)
from support.system import wait_for

HOST = "waypoint.test"


@pytest.fixture(scope="module")
def mesh(program):
    with Mesh(nodes=2) as m:
        m.web = m.pod("web")
        m.v1, m.v2 = m.pod("shop-v1", node=1, account="shop"), m.pod("shop-v2", node=1, account="shop")
        m.waypoint, m.resolver = m.pod("waypoint", node=1), m.pod("resolver", namespace="outside")
        m.waypoint.outside = m.resolver.outside = True
        for pod in (m.v1, m.v2):
            pod.services = {f"demo/{SHOP}": {80: 8080}}
        m.proxy_env.update({"BRUMA_NAME_SERVERS": f"{m.resolver.ip}:5300", "BRUMA_NAME_TIMEOUT": "1500ms"})
        m.hosts = Hosts(m)
        m.hosts.set(**{HOST: [m.waypoint.ip, m.waypoint.ip6]})
        dnsmasq(m)
        set_services(m, waypoint=named(f"demo/{HOST}"))
        set_waypoints(m, m.waypoint, workloadIps=[], hostname=HOST, services={})
        m.start()
        m.v1.app, m.v2.app = m.v1.server(HTTP_APP, "v1"), m.v2.server(HTTP_APP, "v2")
        m.envoy = envoy(m, m.waypoint, program)
        try:
            m.envoy.start()
            yield m
        finally:
            m.envoy.stop()


def by(mesh, waypoint, **fields):
    set_services(mesh, waypoint=waypoint)
    set_waypoints(mesh, mesh.waypoint, workloadIps=[], hostname=HOST, **fields)
    publish(mesh)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
@pytest.mark.parametrize("way", ["of a workload", "of a service's endpoint"])
def test_a_waypoint_by_hostname(mesh, vip, way):
    if way == "of a workload":
        by(mesh, named(f"demo/{HOST}"), services={})
    else:
        by(mesh, named(f"demo/{WAYPOINT}"))
    logged, passed = len(mesh.nodes[0].access_log()), len(mesh.envoy.lines())
    assert one(mesh.web, vip)[0] == 200
    wait_for(lambda: len(mesh.nodes[0].access_log()) > logged, "the line")
    address = mesh.waypoint.ip if vip == VIP4 else f"[{mesh.waypoint.ip6}]"
    assert f"dst.addr={address}:15008" in mesh.nodes[0].access_log()[logged]
    wait_for(lambda: len(mesh.envoy.lines()) > passed, "the waypoint's line")


def test_an_endpoint_with_a_hostname_behind_a_waypoint_is_the_waypoints(mesh):
    """An egress waypoint: the ServiceEntry is captured by its VIP, and its name is not even asked for here."""
    by(mesh, named(f"demo/{HOST}"), services={})
    mesh.extra.append(
        {
            "name": "egress",
            "namespace": "demo",
            "hostname": "egress.test",
            "protocol": "TCP",
            "services": {f"demo/{SHOP}": {80: 8080}},
        }
    )
    publish(mesh, lambda dump: "egress.test" in str(dump["workloads"]))
    passed = len(mesh.envoy.lines())
    for _ in range(8):
        assert one(mesh.web, VIP4)[0] == 200
    wait_for(lambda: len(mesh.envoy.lines()) == passed + 8, "the waypoint's lines")
    assert mesh.hosts.queries("egress.test", "A") == 0


def test_without_its_address_nothing_goes_around_it(mesh):
    by(mesh, named("demo/gone.test"), services={})
    set_waypoints(mesh, mesh.waypoint, workloadIps=[], hostname="gone.test", services={})
    publish(mesh, lambda dump: any(w.get("hostname") == "gone.test" for w in dump["workloads"]))
    reached = mesh.v1.app.text() + mesh.v2.app.text()
    before = mesh.nodes[0].failures("name_not_found")
    assert one(mesh.web, VIP4)[0] == 0
    assert mesh.nodes[0].failures("name_not_found") > before
    assert mesh.v1.app.text() + mesh.v2.app.text() == reached
